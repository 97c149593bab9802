//! From logits to a token. Uses the ground only.
