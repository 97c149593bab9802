//! What each setting of the sampler promises, against xAI's own sampling and against plain definitions.

use grok1::{Classify, ErrorKind, SampleError, Sampler};
use serde_json::Value;

/// Kept tokens and their probabilities.
fn distribution(mut sampler: Sampler, logits: &[f32], history: &[u32]) -> Vec<(u32, f64)> {
    sampler.distribution(logits, history).unwrap()
}

/// Kept tokens.
fn kept(sampler: Sampler, logits: &[f32]) -> Vec<u32> {
    distribution(sampler, logits, &[]).into_iter().map(|(token, _)| token).collect()
}

/// The first `count` tokens drawn from the same logits.
fn draws(mut sampler: Sampler, logits: &[f32], count: usize) -> Vec<u32> {
    (0..count).map(|_| sampler.sample(logits, &[]).unwrap().token).collect()
}

/// Logits that look normally distributed, a quarter of them in ties.
fn logits(vocab: usize, seed: u64, spread: f32) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u32 << 24) as f32
    };
    (0..vocab)
        .map(|token| {
            let normal = (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
            if token % 4 == 0 { (normal * spread).round() } else { normal * spread }
        })
        .collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|id| id as u32).collect()
}

mod reference {
    use super::*;

    /// xAI's own `sample_token` on 24 cases, with the true values in f64.
    fn cases() -> Vec<(Sampler, Vec<f32>, Value)> {
        let text = include_str!("fixtures/sampling/sample_token.json");
        let cases: Vec<Value> = serde_json::from_str(text).unwrap();
        assert_eq!(cases.len(), 24);
        let case = |case: Value| {
            let mut sampler = Sampler::new()
                .temperature(case["temperature"].as_f64().unwrap() as f32)
                .top_p(case["nucleus_p"].as_f64().unwrap() as f32);
            if !case["allowed_mask"].is_null() {
                let mask = ids(&case["allowed_mask"]);
                sampler =
                    sampler.allowed_tokens((0..).zip(mask).filter(|&(_, yes)| yes == 1).map(|(id, _)| id));
            }
            let logits = numbers(&case["logits_bf16"]).into_iter().map(|logit| logit as f32).collect();
            (sampler, logits, case)
        };
        cases.into_iter().map(case).collect()
    }

    #[test]
    fn the_same_tokens_are_kept_with_the_same_probabilities() {
        let mut decided = 0;
        for (sampler, logits, case) in cases() {
            let name = &case["name"];
            let ours = distribution(sampler, &logits, &[]);
            let expected = numbers(&case["f64"]["probs"]);
            let mut probabilities = vec![0.0; logits.len()];
            for &(token, probability) in &ours {
                probabilities[token as usize] = probability;
            }
            // Within 1e-4 of the cut, rounding decides.
            let near_the_cut = case["f64"]["cut_margin"].as_f64().unwrap() <= 1e-4;
            if !near_the_cut || case["nucleus_p"].as_f64().unwrap() >= 1.0 {
                let tokens: Vec<_> = ours.iter().map(|&(token, _)| token).collect();
                assert_eq!(tokens, ids(&case["f64"]["kept"]), "{name}");
                decided += 1;
            }
            for (token, (ours, expected)) in probabilities.into_iter().zip(expected).enumerate() {
                assert!(
                    (ours - expected).abs() < 1e-5,
                    "{name}: token {token} has {ours}, expected {expected}"
                );
            }
        }
        assert!(decided >= 18);
    }

    #[test]
    fn the_best_eight_are_the_same() {
        for (sampler, logits, case) in cases() {
            let mut ours = distribution(sampler, &logits, &[]);
            ours.sort_by(|a, b| b.1.total_cmp(&a.1));
            // Tokens that are dropped, or too unlikely to have a chance, have no order.
            ours.retain(|&(_, probability)| probability > 0.0);
            let best: Vec<_> = ours.iter().take(8).map(|&(token, _)| token).collect();
            assert_eq!(best, ids(&case["f64"]["top8_ids"])[..best.len()], "{}", case["name"]);
        }
    }

    #[test]
    fn what_it_drew_we_could_draw() {
        for (sampler, logits, case) in cases() {
            let possible = kept(sampler, &logits);
            for token in ids(&case["ref_f32"]["drawn_in_400"]) {
                assert!(possible.contains(&token), "{}: {token}", case["name"]);
            }
        }
    }

    #[test]
    fn what_we_draw_it_keeps() {
        for (sampler, logits, case) in cases() {
            let possible = kept(sampler.clone(), &logits);
            for token in draws(sampler, &logits, 400) {
                assert!(possible.contains(&token), "{}: {token}", case["name"]);
            }
        }
    }
}

mod filters {
    use super::*;

    /// Top-k, top-p and min-p by sorting everything, in f64.
    fn by_sorting(logits: &[f32], temperature: f32, top_k: usize, top_p: f32, min_p: f32) -> Vec<u32> {
        let mut tokens: Vec<usize> = (0..logits.len()).collect();
        tokens.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        tokens.truncate(if top_k == 0 { logits.len() } else { top_k });
        let best = f64::from(logits[tokens[0]]);
        let weight = |token: usize| ((f64::from(logits[token]) - best) / f64::from(temperature)).exp();
        if top_p < 1.0 {
            let enough = f64::from(top_p) * tokens.iter().map(|&token| weight(token)).sum::<f64>();
            let mut sum = 0.0;
            let inside = |&&token: &&usize| {
                let before = sum;
                sum += weight(token);
                before <= enough
            };
            let last = *tokens.iter().take_while(inside).last().unwrap();
            tokens.retain(|&token| logits[token] >= logits[last]);
        }
        tokens.retain(|&token| weight(token) >= f64::from(min_p));
        tokens.sort_unstable();
        tokens.into_iter().map(|token| token as u32).collect()
    }

    #[test]
    fn every_combination_keeps_what_sorting_keeps() {
        for vocab in [1, 2, 31, 32, 33, 2048] {
            for (seed, spread) in [(1, 0.1), (2, 1.0), (3, 4.0)] {
                let logits = logits(vocab, seed, spread);
                for temperature in [0.3, 1.0, 2.5] {
                    for top_k in [0, 1, 5, 40, 300, 5000] {
                        for top_p in [1.0, 0.01, 0.3, 0.95, 0.999] {
                            for min_p in [0.0, 1e-4, 0.05, 1.0] {
                                let sampler = Sampler::new()
                                    .temperature(temperature)
                                    .top_k(top_k)
                                    .top_p(top_p)
                                    .min_p(min_p);
                                assert_eq!(
                                    kept(sampler, &logits),
                                    by_sorting(&logits, temperature, top_k, top_p, min_p),
                                    "{vocab} {spread} {temperature} {top_k} {top_p} {min_p}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn top_k_takes_the_lower_ids_of_equal_logits() {
        assert_eq!(kept(Sampler::new().top_k(2), &[0.0, 1.0, 1.0, 1.0]), [1, 2]);
        assert_eq!(kept(Sampler::new().top_k(3), &[-0.0, 0.0, -1.0, 0.0, -0.0]), [0, 1, 3]);
        assert_eq!(kept(Sampler::new().top_k(700), &[3.0; 5000]), (0..700).collect::<Vec<_>>());
    }

    #[test]
    fn top_p_keeps_all_that_equal_the_last_it_needs() {
        assert_eq!(kept(Sampler::new().top_p(0.5), &[2.0, 1.0, 2.0, 2.0]), [0, 2, 3]);
        assert_eq!(kept(Sampler::new().top_p(1e-6), &[2.0, 1.0, 2.0, 2.0]), [0, 2, 3]);
    }

    #[test]
    fn top_p_counts_what_top_k_leaves() {
        // Of the two best, the first has 73 %; of all ten, 49 %.
        let logits = [3.0, 2.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5];
        assert_eq!(kept(Sampler::new().top_p(0.6), &logits), [0, 1]);
        assert_eq!(kept(Sampler::new().top_k(2).top_p(0.6), &logits), [0]);
    }

    #[test]
    fn filters_see_probabilities_after_temperature() {
        let logits = [0.0, -1.0, -2.0];
        assert_eq!(kept(Sampler::new().min_p(0.2), &logits), [0, 1]);
        assert_eq!(kept(Sampler::new().temperature(2.0).min_p(0.2), &logits), [0, 1, 2]);
        assert_eq!(kept(Sampler::new().temperature(0.5).min_p(0.2), &logits), [0]);
    }

    #[test]
    fn excluded_tokens_are_never_kept() {
        let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, -60.0];
        assert_eq!(kept(Sampler::new(), &logits), [1, 3]);
        assert_eq!(kept(Sampler::new().top_k(3), &logits), [1, 3]);
        assert_eq!(kept(Sampler::new().top_p(0.9999), &logits), [1]);
        assert_eq!(draws(Sampler::new().temperature(f32::MAX), &logits, 100).iter().min(), Some(&1));
    }
}

mod adjustments {
    use super::*;

    /// Logits after everything but temperature and filters, as the host's filter sees them.
    fn adjusted(sampler: Sampler, logits: &[f32], history: &[u32]) -> Vec<f32> {
        let (sender, seen) = std::sync::mpsc::channel();
        let mut sampler = sampler.filter(move |_, logits| sender.send(logits.to_vec()).unwrap());
        sampler.sample(logits, history).unwrap();
        seen.recv().unwrap()
    }

    #[test]
    fn repetition_divides_positive_and_multiplies_negative_logits_once() {
        let sampler = Sampler::new().repetition_penalty(2.0);
        assert_eq!(adjusted(sampler, &[4.0, -4.0, 4.0, -4.0], &[0, 1, 0]), [2.0, -8.0, 4.0, -4.0]);
    }

    #[test]
    fn presence_counts_once_and_frequency_every_time() {
        let history = [2, 0, 2, 2];
        assert_eq!(adjusted(Sampler::new().presence_penalty(0.5), &[1.0; 3], &history), [0.5, 1.0, 0.5]);
        assert_eq!(adjusted(Sampler::new().frequency_penalty(0.5), &[1.0; 3], &history), [0.5, 1.0, -0.5]);
    }

    #[test]
    fn penalties_forget_what_left_the_window() {
        let sampler = Sampler::new().presence_penalty(1.0);
        let at = |window| adjusted(sampler.clone().penalty_window(window), &[0.0; 3], &[0, 1, 2]);
        assert_eq!(at(0), [0.0, 0.0, 0.0]);
        assert_eq!(at(2), [0.0, -1.0, -1.0]);
        assert_eq!(at(9), [-1.0, -1.0, -1.0]);
    }

    #[test]
    fn penalties_do_not_add_up_over_tokens() {
        let mut sampler = Sampler::new().frequency_penalty(1.0);
        let first = sampler.distribution(&[0.0; 3], &[0, 0]).unwrap();
        assert_eq!(sampler.distribution(&[0.0; 3], &[0, 0]).unwrap(), first);
    }

    #[test]
    fn bias_comes_before_mask_and_penalties() {
        // The bias makes token 0 positive before repetition looks at its sign, and cannot bring back token 1.
        let sampler = Sampler::new()
            .repetition_penalty(2.0)
            .allowed_tokens([2, 0])
            .logit_bias(1, 9.0)
            .logit_bias(0, 5.0);
        assert_eq!(adjusted(sampler, &[-1.0, 0.0, 1.0], &[0]), [2.0, f32::NEG_INFINITY, 1.0]);
    }

    #[test]
    fn only_allowed_tokens_are_left() {
        assert_eq!(kept(Sampler::new().allowed_tokens([6, 1, 3, 1]), &[0.0; 8]), [1, 3, 6]);
        assert_eq!(kept(Sampler::new().allowed_tokens([0, 7]), &[0.0; 8]), [0, 7]);
    }

    #[test]
    fn the_hosts_filter_has_the_last_word_before_temperature() {
        let sampler = Sampler::new().logit_bias(0, 100.0).top_k(1).filter(|history, logits| {
            assert_eq!(history, [1, 2]);
            logits[0] = f32::NEG_INFINITY;
        });
        assert_eq!(distribution(sampler, &[0.0, 1.0, 2.0], &[1, 2]), [(2, 1.0)]);
    }

    #[test]
    fn greedy_honours_them_all() {
        let logits = [5.0, 4.0, 3.0, 2.0, 1.0];
        let greedy = |sampler: Sampler| sampler.greedy().sample(&logits, &[1]).unwrap().token;
        assert_eq!(greedy(Sampler::new()), 0);
        assert_eq!(greedy(Sampler::new().logit_bias(0, f32::NEG_INFINITY)), 1);
        assert_eq!(greedy(Sampler::new().logit_bias(0, f32::NEG_INFINITY).presence_penalty(2.0)), 2);
        assert_eq!(greedy(Sampler::new().allowed_tokens([3, 4])), 3);
        assert_eq!(greedy(Sampler::new().filter(|_, logits| logits.reverse())), 4);
    }
}

mod drawing {
    use super::*;

    #[test]
    fn tokens_come_as_often_as_they_are_probable() {
        let logits = logits(40, 7, 1.5);
        for sampler in [Sampler::new().seed(3), Sampler::new().temperature(1.5).top_k(12).seed(4)] {
            const DRAWS: usize = 40_000;
            let mut counts = vec![0_u32; logits.len()];
            for token in draws(sampler.clone(), &logits, DRAWS) {
                counts[token as usize] += 1;
            }
            let expected = distribution(sampler, &logits, &[]);
            let chi_square: f64 = expected
                .iter()
                .map(|&(token, probability)| (token, probability * DRAWS as f64))
                .map(|(token, expected)| (f64::from(counts[token as usize]) - expected).powi(2) / expected)
                .sum();
            let freedom = expected.len() as f64 - 1.0;
            assert!(chi_square < freedom + 4.0 * (2.0 * freedom).sqrt(), "{chi_square} for {freedom}");
        }
    }

    #[test]
    fn a_seed_gives_these_tokens_everywhere() {
        let logits = logits(2048, 5, 3.0);
        let sampler = Sampler::new().temperature(0.7).top_p(0.95).seed(42);
        assert_eq!(
            draws(Sampler::new().seed(42), &logits, 8),
            [1284, 885, 1461, 1461, 1715, 779, 1586, 1101]
        );
        assert_eq!(draws(sampler, &logits, 8), [1422, 1311, 1461, 1545, 1715, 1017, 1586, 1422]);
    }

    #[test]
    fn another_seed_gives_other_tokens() {
        let logits = logits(2048, 5, 3.0);
        assert_ne!(draws(Sampler::new(), &logits, 8), draws(Sampler::new().seed(1), &logits, 8));
    }

    #[test]
    fn each_draw_uses_one_number_and_greedy_none() {
        let logits = logits(64, 9, 1.0);
        let tokens = draws(Sampler::new(), &logits, 10);
        let mut sampler = Sampler::new();
        sampler.set_draws(6);
        assert_eq!(draws(sampler.clone(), &logits, 4), tokens[6..]);

        sampler = sampler.greedy();
        sampler.sample(&logits, &[]).unwrap();
        sampler = sampler.temperature(1.0);
        sampler.sample(&[f32::NAN], &[]).unwrap_err();
        sampler.distribution(&logits, &[]).unwrap();
        assert_eq!(sampler.draws(), 6);
        assert_eq!(sampler.sample(&logits, &[]).unwrap().token, tokens[6]);
        assert_eq!(sampler.draws(), 7);
    }

    #[test]
    fn a_clone_goes_on_from_the_same_place() {
        let logits = logits(64, 9, 1.0);
        let mut sampler = Sampler::new();
        sampler.sample(&logits, &[]).unwrap();
        assert_eq!(draws(sampler.clone(), &logits, 5), draws(sampler, &logits, 5));
    }

    #[test]
    fn zero_temperature_and_zero_top_p_take_the_lowest_id_of_the_best() {
        for sampler in [Sampler::new().temperature(0.0), Sampler::new().top_p(0.0), Sampler::new().greedy()] {
            assert_eq!(distribution(sampler, &[1.0, 2.0, 2.0], &[]), [(1, 1.0)]);
        }
    }

    #[test]
    fn a_sampler_can_be_lent_to_other_threads() {
        fn portable<T: Send + Sync + Clone + 'static>() {}
        portable::<Sampler>();
    }
}

mod log_probabilities {
    use super::*;

    #[test]
    fn are_the_models_own_whatever_the_settings() {
        let logits = logits(500, 11, 2.0);
        let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        for sampler in [
            Sampler::new(),
            Sampler::new().greedy(),
            Sampler::new().top_p(0.8),
            Sampler::new().temperature(0.2).top_k(5).logit_bias(3, 4.0),
            Sampler::new().allowed_tokens([17]),
        ] {
            let sampled = sampler.alternatives(5).sample(&logits, &[]).unwrap();
            let expected = |token: u32| f64::from(logits[token as usize]) - total.ln();
            assert!((f64::from(sampled.logprob.unwrap()) - expected(sampled.token)).abs() < 1e-5);
            for alternative in &sampled.alternatives {
                assert!((f64::from(alternative.logprob) - expected(alternative.token)).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn alternatives_come_best_first_and_by_id_if_equal() {
        let mut sampler = Sampler::new().greedy().alternatives(3);
        let tokens = |sampled: grok1::Sampled| -> Vec<u32> {
            sampled.alternatives.iter().map(|alternative| alternative.token).collect()
        };
        assert_eq!(tokens(sampler.sample(&[1.0, 3.0, 2.0, 3.0], &[]).unwrap()), [1, 3, 2]);
        assert_eq!(tokens(sampler.sample(&[1.0, f32::NEG_INFINITY], &[]).unwrap()), [0]);
        let many = logits(5000, 13, 0.5);
        let mut sorted: Vec<u32> = (0..5000).collect();
        sorted.sort_by(|&a, &b| many[b as usize].total_cmp(&many[a as usize]));
        assert_eq!(tokens(sampler.alternatives(300).sample(&many, &[]).unwrap()), sorted[..300]);
    }

    #[test]
    fn can_be_left_out() {
        let sampled = Sampler::new().logprobs(false).sample(&[1.0, 2.0], &[]).unwrap();
        assert_eq!((sampled.logprob, sampled.alternatives.len()), (None, 0));
    }
}

/// What cannot be sampled, each with its message; nothing is drawn.
#[test]
fn every_error_says_what_is_wrong() {
    let new = Sampler::new;
    let nan = f32::NAN;
    let never = f32::NEG_INFINITY;
    let cases: &[(Sampler, &[f32], &[u32], &str)] = &[
        (new(), &[], &[], "0 logits, expected 1 to 16777216"),
        (new(), &[0.0, nan, nan], &[], "the model's logit of token 1 is NaN"),
        (new().greedy(), &[0.0, 1.0, f32::INFINITY], &[], "the model's logit of token 2 is inf"),
        (new().allowed_tokens([0]), &[0.0, nan], &[], "the model's logit of token 1 is NaN"),
        (new(), &[never; 3], &[], "every token is excluded"),
        (new().allowed_tokens([]), &[0.0; 3], &[], "every token is excluded"),
        (new().allowed_tokens([1]).logit_bias(1, never), &[0.0; 3], &[], "every token is excluded"),
        (
            new().allowed_tokens([0, 3]),
            &[0.0; 3],
            &[],
            "allowed_tokens has token 3, but the vocabulary ends at 3",
        ),
        (new().logit_bias(9, 1.0), &[0.0; 3], &[], "logit_bias has token 9, but the vocabulary ends at 3"),
        (
            new().presence_penalty(1.0),
            &[0.0; 3],
            &[1, 5],
            "history has token 5, but the vocabulary ends at 3",
        ),
        (
            new().filter(|_, logits| logits[1] = f32::NAN),
            &[0.0; 3],
            &[],
            "the logit of token 1 is NaN after bias, penalties and filter",
        ),
        (
            new().logit_bias(0, f32::MAX),
            &[f32::MAX, 0.0],
            &[],
            "the logit of token 0 is inf after bias, penalties and filter",
        ),
        (new().temperature(nan), &[0.0], &[], "temperature is NaN, expected a finite number, 0 or more"),
        (new().temperature(-0.5), &[0.0], &[], "temperature is -0.5, expected a finite number, 0 or more"),
        (
            new().temperature(f32::INFINITY),
            &[0.0],
            &[],
            "temperature is inf, expected a finite number, 0 or more",
        ),
        (new().top_p(nan), &[0.0], &[], "top_p is NaN, expected a number from 0 to 1"),
        (new().top_p(-0.1), &[0.0], &[], "top_p is -0.1, expected a number from 0 to 1"),
        (new().top_p(1.5), &[0.0], &[], "top_p is 1.5, expected a number from 0 to 1"),
        (new().min_p(2.0), &[0.0], &[], "min_p is 2, expected a number from 0 to 1"),
        (new().min_p(nan).greedy(), &[0.0], &[], "min_p is NaN, expected a number from 0 to 1"),
        (
            new().repetition_penalty(0.0),
            &[0.0],
            &[],
            "repetition_penalty is 0, expected a finite number above 0",
        ),
        (new().presence_penalty(nan), &[0.0], &[], "presence_penalty is NaN, expected a finite number"),
        (new().frequency_penalty(never), &[0.0], &[], "frequency_penalty is -inf, expected a finite number"),
        (new().logit_bias(0, nan), &[0.0], &[], "logit_bias is NaN, expected a number below +infinity"),
        (
            new().logit_bias(0, f32::INFINITY),
            &[0.0],
            &[],
            "logit_bias is inf, expected a number below +infinity",
        ),
    ];
    for (sampler, logits, history, message) in cases {
        let mut sampler = sampler.clone();
        let error = sampler.sample(logits, history).unwrap_err();
        assert_eq!(&error.to_string(), message);
        assert_eq!(sampler.draws(), 0, "{message}");
        assert_eq!(sampler.distribution(logits, history).unwrap_err().to_string(), error.to_string());
        let the_models_fault = matches!(error, SampleError::Logit { .. });
        assert_eq!(error.kind(), if the_models_fault { ErrorKind::Format } else { ErrorKind::Argument });
    }
}

#[test]
fn a_sampler_works_on_after_an_error() {
    let mut sampler = Sampler::new().frequency_penalty(1.0).greedy();
    sampler.sample(&[1.0, 1.0, 0.0], &[0, 7]).unwrap_err();
    assert_eq!(sampler.sample(&[1.0, 1.0, 0.0], &[0]).unwrap().token, 1);
    assert!(sampler.validate().is_ok());
}
