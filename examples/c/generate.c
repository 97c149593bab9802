/*
 * Text from a prompt, printed as it comes: generate [MODEL [PROMPT]]
 *
 *     cc generate.c $(pkg-config --cflags --libs grok1) -o generate
 */

#include <grok1.h>
#include <stdio.h>
#include <string.h>

static int32_t print(void *user, const grok1_token *token)
{
    (void)user;
    fwrite(token->text, 1, token->text_len, stdout);
    fflush(stdout);
    return GROK1_CONTINUE;
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "assets/tiny";
    const char *prompt = argc > 2 ? argv[2] : "To be, or not to be";
    grok1_model *model = NULL;
    grok1_session *session = NULL;
    grok1_sampler *sampler = NULL;
    grok1_generation *generation = NULL;
    grok1_error *error = NULL;
    grok1_sampler_options sampling;
    grok1_generation_options limits;
    grok1_status status;

    grok1_sampler_options_init(&sampling, sizeof sampling);
    sampling.temperature = 0.7f;
    sampling.top_p = 0.95f;
    sampling.seed = 42;
    grok1_generation_options_init(&limits, sizeof limits);
    limits.max_tokens = 100;

    /* Everything is NULL until it is made, and NULL may be freed: one way out is enough. */
    if ((status = grok1_model_load(path, NULL, NULL, &model, &error)) != GROK1_OK)
        goto out;
    if ((status = grok1_session_new(model, NULL, &session, &error)) != GROK1_OK)
        goto out;
    if ((status = grok1_sampler_new(&sampling, &sampler, &error)) != GROK1_OK)
        goto out;
    if ((status = grok1_generation_new(&limits, &generation, &error)) != GROK1_OK)
        goto out;

    if ((status = grok1_session_push_text(session, prompt, strlen(prompt), &error)) != GROK1_OK)
        goto out;
    fputs(prompt, stdout);
    if ((status = grok1_generation_run(generation, session, sampler, print, NULL, NULL, &error)) != GROK1_OK)
        goto out;
    putchar('\n');

out:
    if (status != GROK1_OK)
        fprintf(stderr, "%s: %s\n", grok1_status_name(status), grok1_error_message(error));
    grok1_error_free(error);
    grok1_generation_free(generation);
    grok1_sampler_free(sampler);
    grok1_session_free(session);
    grok1_model_free(model);
    return status == GROK1_OK ? 0 : 1;
}
