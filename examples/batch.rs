//! Several texts at once: `cargo run --release --example batch -- [MODEL]`.
//!
//! Weights are read once for all sequences of a run, so a batch of them costs little more than one. Each sequence has its own
//! session, sampler and generation, and leaves the batch when its text ends.

use grok1::{Control, Entry, Generation, Model, Sampler, Session, Want};

struct Sequence {
    session: Session,
    sampler: Sampler,
    generation: Generation,
    text: String,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "assets/tiny".to_owned());
    let model = Model::open(path)?;

    let mut sequences = Vec::new();
    for (seed, prompt) in ["KING HENRY.", "In the beginning", "My lord,"].into_iter().enumerate() {
        let mut session = model.session()?;
        // Tokens that wait in a session are what its next run begins with.
        model.tokenizer()?.encode(prompt).into_iter().for_each(|token| session.push(token));
        sequences.push(Sequence {
            session,
            sampler: Sampler::new().temperature(0.7).top_p(0.95).seed(seed as u64),
            generation: Generation::new().max_tokens(20 * (seed + 1)).stop(["\n\n"]),
            text: prompt.to_owned(),
        });
    }

    loop {
        let mut running: Vec<_> =
            sequences.iter_mut().filter(|sequence| sequence.generation.finish().is_none()).collect();
        if running.is_empty() {
            break;
        }
        let mut entries: Vec<_> = running
            .iter_mut()
            .map(|Sequence { session, sampler, .. }| Entry::new(session, &[]).want(Want::Sample(sampler)))
            .collect();
        model.run(&mut entries, &Control::new())?;
        for Sequence { session, sampler, generation, text } in running {
            if let Some(piece) = generation.accept(session, sampler)? {
                text.push_str(piece.text());
            }
        }
    }
    for Sequence { text, generation, .. } in &sequences {
        println!("{text}\n[{:?} after {} tokens]\n", generation.finish(), generation.tokens());
    }
    Ok(())
}
