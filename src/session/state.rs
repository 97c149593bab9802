//! Saved sessions. Uses `model` and `sample`.
//!
//! A saved session is canonical: it does not depend on backend, page size or number of devices. Little-endian throughout:
//!
//! | field | bytes |
//! |---|---|
//! | `GROK1SES` | 8 |
//! | version: 1 | 4 |
//! | KV type: 0 f32, 1 bf16 | 4 |
//! | fingerprint of the model | 16 |
//! | context, tokens, position (tokens that were run), logits (0 or vocab), bytes of the sampler | 8 each |
//! | tokens | 4 each |
//! | logits, f32 | 4 each |
//! | sampler | as said |
//! | keys and values, `[layers, key then value, position, kv heads, head_dim]` | 2 or 4 each |
//! | XXH3-64 of everything before | 8 |
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use std::io::{Read, Write};

use xxhash_rust::xxh3::Xxh3;

use super::{Session, SessionError, SessionOptions};
use crate::backend::KvType;
use crate::control::Control;
use crate::error::Result;
use crate::model::Model;
use crate::sample::Sampler;

const MAGIC: [u8; 8] = *b"GROK1SES";
const VERSION: u32 = 1;
/// More than any sampler needs.
const MAX_SAMPLER: u64 = 64 << 20;

impl Session {
    /// Writes the session, and a sampler's state if one is given, so that [`Model::restore`] can go on exactly here.
    ///
    /// Makes many small writes: give a buffered writer. Writing to a temporary file and renaming it is the caller's part.
    ///
    /// # Errors
    /// [`SessionError::Io`], [`Cancelled`](crate::Cancelled).
    pub fn save(&self, out: &mut dyn Write, sampler: Option<&Sampler>, control: &Control) -> Result<()> {
        let mut out = Writer { out, hash: Xxh3::new() };
        let sampler = sampler.map(Sampler::to_bytes).unwrap_or_default();
        let logits = self.logits().unwrap_or_default();
        let kv_type = self.model.kv_type();
        out.put(&MAGIC)?;
        out.put(&VERSION.to_le_bytes())?;
        out.put(&kv_code(kv_type).to_le_bytes())?;
        out.put(&self.model.fingerprint(control)?.to_le_bytes())?;
        for count in [self.context, self.tokens.len(), self.position(), logits.len(), sampler.len()] {
            out.put(&(count as u64).to_le_bytes())?;
        }
        for token in &self.tokens {
            out.put(&token.to_le_bytes())?;
        }
        for logit in logits {
            out.put(&logit.to_le_bytes())?;
        }
        out.put(&sampler)?;
        self.model.engine().read_kv(&self.kv, kv_type.size(), control, &mut |values| out.put(values))?;
        let checksum = out.hash.digest();
        out.put(&checksum.to_le_bytes())?;
        out.flush()
    }
}

impl Model {
    /// Reads a session, and its sampler's state if one was saved, that [`Session::save`] wrote from the same model.
    ///
    /// The context is that of `options` or, without one there, the saved session's. The sampler comes without the host's filter.
    /// Makes many small reads: give a buffered reader.
    ///
    /// # Errors
    /// [`SessionError`] for bytes that are truncated, changed, of another model or of another KV type; a context that is too
    /// short for what was saved, or longer than the model was trained for without the option that allows it; no KV pages left;
    /// [`Cancelled`](crate::Cancelled).
    pub fn restore(
        &self,
        input: &mut dyn Read,
        options: &SessionOptions,
        control: &Control,
    ) -> Result<(Session, Option<Sampler>)> {
        let mut input = Reader { input, hash: Xxh3::new() };
        expect("magic", input.get()?, MAGIC)?;
        expect("version", u32::from_le_bytes(input.get()?), VERSION)?;
        let kv_type = self.kv_type();
        expect("KV type", u32::from_le_bytes(input.get()?), kv_code(kv_type))?;
        let (found, expected) = (u128::from_le_bytes(input.get()?), self.fingerprint(control)?);
        if found != expected {
            return Err(SessionError::OtherModel { found, expected }.into());
        }
        let vocab = self.config().vocab as u64;
        let saved = input.count("context", 1 << 31)?;
        let context = options.context.map_or(saved, |context| context as u64);
        // Tokens that wait may be more than the context has room for: that is checked when they run.
        let tokens = input.count("number of tokens", 1 << 32)?;
        let position = input.count("position", context.min(tokens))?;
        let logits = input.count("number of logits", vocab)?;
        if logits != 0 {
            expect("number of logits", logits, vocab)?;
            expect("position of logits", position, tokens)?;
        }
        let sampler = input.count("size of the sampler", MAX_SAMPLER)?;

        let mut session = self.session_with(&options.clone().context(context as usize))?;
        for _ in 0..tokens {
            let token = u32::from_le_bytes(input.get()?);
            if u64::from(token) >= vocab {
                return Err(field("token", token, format!("below {vocab}")).into());
            }
            session.tokens.push(token);
        }
        for _ in 0..logits {
            session.last.logits.push(f32::from_le_bytes(input.get()?));
        }
        session.has_last = logits > 0;
        let mut bytes = Vec::new();
        for _ in 0..sampler {
            let [byte] = input.get()?;
            bytes.push(byte);
        }
        let sampler = (!bytes.is_empty()).then(|| Sampler::from_bytes(&bytes)).transpose()?;
        let engine = self.engine();
        engine.write_kv(&mut session.kv, position as usize, kv_type.size(), control, &mut |values| {
            input.fill(values)
        })?;
        let found = input.hash.digest();
        let expected = u64::from_le_bytes(input.get()?);
        if found != expected {
            return Err(SessionError::Checksum { found, expected }.into());
        }
        Ok((session, sampler))
    }
}

fn kv_code(kv: KvType) -> u32 {
    match kv {
        KvType::F32 => 0,
        KvType::BF16 => 1,
    }
}

fn field(name: &'static str, found: impl std::fmt::Debug, expected: String) -> SessionError {
    SessionError::Field { field: name, found: format!("{found:?}"), expected }
}

fn expect<T: PartialEq + std::fmt::Debug>(
    name: &'static str,
    found: T,
    expected: T,
) -> Result<(), SessionError> {
    if found == expected { Ok(()) } else { Err(field(name, found, format!("{expected:?}"))) }
}

/// Hashes what is written.
struct Writer<'a> {
    out: &'a mut dyn Write,
    hash: Xxh3,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        Ok(self.out.write_all(bytes).map_err(|source| SessionError::Io { action: "write", source })?)
    }

    fn flush(&mut self) -> Result<()> {
        Ok(self.out.flush().map_err(|source| SessionError::Io { action: "write", source })?)
    }
}

/// Hashes what is read.
struct Reader<'a> {
    input: &'a mut dyn Read,
    hash: Xxh3,
}

impl Reader<'_> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.input.read_exact(bytes).map_err(|source| SessionError::Io { action: "read", source })?;
        self.hash.update(bytes);
        Ok(())
    }

    fn get<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn count(&mut self, name: &'static str, max: u64) -> Result<u64> {
        let found = u64::from_le_bytes(self.get()?);
        if found > max { Err(field(name, found, format!("at most {max}")).into()) } else { Ok(found) }
    }
}
