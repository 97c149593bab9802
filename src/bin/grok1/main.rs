//! The `grok1` command: arguments in, results on stdout, everything else on stderr. Uses the library's public face only.

mod bandwidth;
mod bench;
mod convert;
mod devices;
mod error;
mod generate;
mod input;
mod inspect;
mod interrupt;
mod machine;
mod model;
mod npy;
mod output;
mod plan;
mod progress;
mod sampling;
mod score;
mod speed;
mod tokenize;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs Grok-1, xAI's 314-billion-parameter mixture-of-experts model.
#[derive(Parser)]
#[command(version, after_help = error::EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Generate(generate::Args),
    Score(score::Args),
    Tokenize(tokenize::Args),
    Inspect(inspect::Args),
    Convert(convert::Args),
    Plan(plan::Args),
    Devices(devices::Args),
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(stopped) => return error::report_usage(&stopped),
    };
    let result = match command {
        Command::Generate(args) => generate::run(args),
        Command::Score(args) => score::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => error::report(&failure),
    }
}
