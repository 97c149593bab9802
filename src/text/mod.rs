//! Text to tokens and back, at once and as a stream. Uses the ground only.
