//! Cancelling from a signal handler.

use super::c::{Link, root, run_c};

#[test]
#[cfg(unix)]
fn a_signal_handler_cancels_and_the_session_goes_on() {
    let code = r#"
#define _DEFAULT_SOURCE
#include "grok1.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

static grok1_cancel *cancel;
static void on_alarm(int signal) { (void)signal; grok1_cancel_set(cancel); }
static int32_t on_token(void *user, const grok1_token *token) { (void)token; ++*(int *)user; return GROK1_CONTINUE; }

int main(int argc, char **argv) {
    grok1_model *model; grok1_session *session; grok1_sampler *sampler; grok1_generation *generation; grok1_error *error;
    if (argc != 2 || grok1_model_load(argv[1], NULL, NULL, &model, NULL)) return 1;
    grok1_session_options session_options;
    grok1_session_options_init(&session_options, sizeof session_options);
    session_options.context = 1 << 30, session_options.beyond_trained_length = 1;
    grok1_generation_options options;
    grok1_generation_options_init(&options, sizeof options);
    options.ignore_end_of_text = 1;
    if (grok1_session_new(model, &session_options, &session, NULL) || grok1_sampler_new(NULL, &sampler, NULL)
        || grok1_generation_new(&options, &generation, NULL) || grok1_cancel_new(&cancel, NULL)
        || grok1_session_push_text(session, "To be", 5, NULL)) return 2;
    grok1_control control;
    grok1_control_init(&control, sizeof control);
    control.cancel = cancel;

    signal(SIGALRM, on_alarm);
    struct itimerval soon = {{0, 0}, {0, 100000}};
    setitimer(ITIMER_REAL, &soon, NULL);
    int tokens = 0;
    if (grok1_generation_run(generation, session, sampler, on_token, &tokens, &control, &error) != GROK1_ERR_CANCELLED) return 3;
    if (strcmp(grok1_error_message(error), "cancelled") || !tokens || !grok1_cancel_is_set(cancel)) return 4;
    grok1_error_free(error);
    /* It goes on where it was. */
    grok1_cancel_clear(cancel);
    grok1_token token;
    if (grok1_generation_next(generation, session, sampler, &control, &token, sizeof token, NULL)) return 5;
    if (token.index != (size_t)tokens) return 6;
    grok1_cancel_free(cancel);
    grok1_generation_free(generation);
    grok1_sampler_free(sampler);
    grok1_session_free(session);
    grok1_model_free(model);
    return 0;
}
"#;
    let tiny = root().join("assets/tiny");
    let _ = run_c("signals", code, Link::Shared, &[tiny.as_os_str()]);
}
