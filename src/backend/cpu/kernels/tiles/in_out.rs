//! Products with matrices stored `[inputs, outputs]`: activations are the left operand, weights the right one.
