//! What sessions promise, on the trained tiny model: the same bits however tokens arrive, nothing changed after an error, text that
//! ends where it should.

mod batches;
mod cancelling;
mod candidates;
mod generation;
mod limits;
mod outputs;
mod pages;
mod saved;
mod threads;

#[path = "../support/models.rs"]
mod models;
#[path = "../support/oracle.rs"]
mod oracle;
#[path = "../support/random.rs"]
mod random;

use grok1::{Model, ModelOptions};

use models::{exact, standard};

/// Shakespeare, sonnet 18 and the beginning of sonnet 29: a few hundred tokens, several pages, more than one span of 256 positions.
const SONNET: &str = "\
Shall I compare thee to a summer's day?
Thou art more lovely and more temperate:
Rough winds do shake the darling buds of May,
And summer's lease hath all too short a date;
Sometime too hot the eye of heaven shines,
And often is his gold complexion dimm'd;
And every fair from fair sometime declines,
By chance or nature's changing course untrimm'd;
But thy eternal summer shall not fade,
Nor lose possession of that fair thou ow'st;
Nor shall death brag thou wander'st in his shade,
When in eternal lines to time thou grow'st:
So long as men can breathe or eyes can see,
So long lives this, and this gives life to thee.

When, in disgrace with fortune and men's eyes,
I all alone beweep my outcast state,
And trouble deaf heaven with my bootless cries,
And look upon myself and curse my fate,
";

fn sonnet(model: &Model) -> Vec<u32> {
    let tokens = model.tokenizer().unwrap().encode(SONNET);
    assert!(tokens.len() > 260, "{}", tokens.len());
    tokens
}

/// Both ways of computing.
fn precisions() -> [ModelOptions; 2] {
    [exact(), standard()]
}

/// Those in which a row has the same bits whatever is computed with it.
fn in_any_batch() -> [ModelOptions; 1] {
    [exact()]
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// The same logits to the last bit, row by row.
fn assert_same(found: &[Vec<f32>], expected: &[Vec<f32>], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(same_bits(found, expected), "{what}: row {row} differs");
    }
}
