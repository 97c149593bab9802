//! Text from a prompt, printed as it comes: `cargo run --release --example generate -- [MODEL]`.

use std::io::Write;

use grok1::{Model, Sampler};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "assets/tiny".to_owned());
    let model = Model::open(path)?;
    let mut session = model.session()?;
    let mut sampler = Sampler::new().temperature(0.7).top_p(0.95).seed(42);

    let prompt = "To be, or not to be";
    print!("{prompt}");
    for piece in session.generate(prompt, &mut sampler).max_tokens(100) {
        print!("{}", piece?.text());
        std::io::stdout().flush()?;
    }
    println!();
    Ok(())
}
