//! The tokenizer and its stream against sentencepiece's own answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use grok1::checkpoint::sentencepiece;
use grok1::{PieceKind, TextStream, Tokenizer, TokenizerError, VocabEntry, Vocabulary};
use serde_json::Value;

mod support {
    pub(crate) mod oracle;
    pub(crate) mod random;
}
use support::oracle::oracle;
use support::random::Random;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn open(path: &Path) -> Tokenizer {
    let bytes = std::fs::read(path).unwrap();
    Tokenizer::new(sentencepiece::vocabulary("tokenizer.model", &bytes).unwrap()).unwrap()
}

fn tiny() -> Tokenizer {
    open(&here("assets/tiny/tokenizer.model"))
}

/// Grok-1's tokenizer and the folder of its goldens, where there is one.
fn grok() -> Option<(Tokenizer, PathBuf)> {
    let folder = oracle()?.join("tokenizer");
    Some((open(&folder.join("grok1.tokenizer.model")), folder))
}

fn encode(tokenizer: &Tokenizer, case: &Value) -> Vec<u32> {
    match &case["text"] {
        Value::String(text) => {
            let ids = tokenizer.encode(text);
            assert_eq!(tokenizer.encode_lossy(text.as_bytes()), ids);
            ids
        }
        _ => {
            let hex = case["bytes"].as_str().unwrap();
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            tokenizer.encode_lossy(&(0..hex.len()).step_by(2).map(byte).collect::<Vec<_>>())
        }
    }
}

fn check_encode(tokenizer: &Tokenizer, case: &Value) {
    assert_eq!(encode(tokenizer, case), ids(&case["ids"]), "{case}");
}

fn check_decode(tokenizer: &Tokenizer, case: &Value) {
    assert_eq!(tokenizer.decode(&ids(&case["ids"])).unwrap(), case["decoded"].as_str().unwrap(), "{case}");
}

fn streamed(mut stream: TextStream, ids: &[u32]) -> String {
    let mut text = String::new();
    for &id in ids {
        text += stream.push(id).unwrap();
    }
    text + stream.finish()
}

#[test]
fn the_tiny_vocabulary_encodes_and_decodes_as_sentencepiece_does() {
    let tokenizer = tiny();
    let cases = lines(&here("tests/fixtures/tokenizer/tiny_encode.jsonl"));
    assert_eq!(cases.len(), 300);
    for case in &cases {
        check_encode(&tokenizer, case);
        check_decode(&tokenizer, case);
    }
}

#[test]
fn the_grok_vocabulary_encodes_and_decodes_as_sentencepiece_does() {
    let Some((tokenizer, folder)) = grok() else { return };
    for case in lines(&folder.join("grok_encode.jsonl")) {
        check_encode(&tokenizer, &case);
        check_decode(&tokenizer, &case);
    }
    for case in lines(&folder.join("grok_bytes.jsonl")) {
        check_encode(&tokenizer, &case);
    }
    for case in lines(&folder.join("grok_decode.jsonl")) {
        check_decode(&tokenizer, &case);
        let pieces = ids(&case["ids"]).into_iter().map(|id| tokenizer.piece(id).unwrap());
        assert!(
            pieces.eq(case["pieces"].as_array().unwrap().iter().map(|piece| piece.as_str().unwrap())),
            "{case}"
        );
    }
}

/// The vocabulary of a line of `small_vocabularies.jsonl`.
fn small(line: &Value) -> Vocabulary {
    let mut entries: Vec<VocabEntry> = line["pieces"].as_array().unwrap().iter().map(entry).collect();
    if let Some(from) = line["bytes_from"].as_u64() {
        let bytes = (0..=255).map(|byte: u8| VocabEntry {
            text: format!("<0x{byte:02X}>"),
            score: 0.0,
            kind: PieceKind::Byte,
        });
        entries.splice(from as usize..from as usize, bytes);
    }
    Vocabulary {
        entries,
        add_dummy_prefix: line["add_dummy_prefix"].as_bool().unwrap(),
        unk: Some(0),
        bos: Some(1),
        eos: Some(2),
        pad: None,
        unk_surface: line["unk_surface"].as_str().unwrap().into(),
    }
}

fn entry(piece: &Value) -> VocabEntry {
    let kind = match piece[2].as_str().unwrap() {
        "normal" => PieceKind::Normal,
        "unknown" => PieceKind::Unknown,
        "control" => PieceKind::Control,
        "user_defined" => PieceKind::UserDefined,
        "unused" => PieceKind::Unused,
        other => panic!("{other}"),
    };
    VocabEntry { text: piece[0].as_str().unwrap().into(), score: piece[1].as_f64().unwrap() as f32, kind }
}

#[test]
fn every_kind_of_vocabulary_encodes_decodes_and_streams_as_sentencepiece_does() {
    for line in lines(&here("tests/fixtures/tokenizer/small_vocabularies.jsonl")) {
        let tokenizer = Arc::new(Tokenizer::new(small(&line)).unwrap());
        for case in line["encode"].as_array().unwrap() {
            check_encode(&tokenizer, case);
        }
        for case in line["decode"].as_array().unwrap() {
            check_decode(&tokenizer, case);
            assert_eq!(
                streamed(TextStream::new(tokenizer.clone()), &ids(&case["ids"])),
                case["decoded"].as_str().unwrap()
            );
        }
    }
}

#[test]
fn the_vectors_of_the_specification_hold() {
    let Some((tokenizer, _)) = grok() else { return };
    let encoded: &[(&str, &[u32])] = &[
        (
            "The answer to life the universe and everything is of course",
            &[422, 3033, 356, 1180, 333, 9072, 360, 2175, 391, 359, 1805],
        ),
        ("Hello world", &[11770, 1135]),
        (" Hello", &[325, 17523]),
        ("Hello  world", &[11770, 325, 8455]),
        ("1234 56", &[130089, 15, 16, 17, 18, 130089, 19, 20]),
        ("a\n\n\nb", &[327, 6, 130110]),
        ("\n", &[130089, 4]),
        ("x = 10;\n\treturn", &[1734, 508, 130089, 15, 14, 130145, 4, 24, 1885]),
        ("\n\n\n\n\n\n\n\n\n\n\n\n", &[130089, 13, 5]),
        ("\t\t\t\t\t\t\t\t\t", &[130089, 31, 24]),
        ("hi<|separator|>there", &[16462, 47, 9012]),
        ("[EOS]", &[794, 59486, 130165]),
        ("\0", &[130089, 69]),
        ("ＡＢＣ", &[130089, 308, 257, 230, 308, 257, 231, 308, 257, 232]),
        ("日本語", &[54164, 130670]),
        ("🙂", &[13442]),
        ("\u{10ffff}", &[130089, 313, 212, 260, 260]),
    ];
    for (text, ids) in encoded {
        assert_eq!(tokenizer.encode(text), *ids, "{text:?}");
    }
    let decoded: &[(&[u32], &str)] = &[
        (&[11770, 1135], "Hello world"),
        (&[1135, 11770], "world Hello"),
        (&[309, 228, 222, 199], "🙂"),
        (&[4, 11770], "\n Hello"),
        (&[130089], ""),
        (&[1, 450, 2], "ld"),
        (&[69 + 0xe2, 69 + 0x82], "\u{fffd}\u{fffd}"),
    ];
    for (ids, text) in decoded {
        assert_eq!(tokenizer.decode(ids).unwrap(), *text, "{ids:?}");
    }
}

#[test]
fn special_tokens_are_found_by_id_and_by_name() {
    let tokenizer = tiny();
    assert_eq!(tokenizer.len(), 2048);
    assert_eq!(
        (tokenizer.pad(), tokenizer.bos(), tokenizer.eos(), tokenizer.unk()),
        (Some(0), Some(1), Some(2), Some(3))
    );
    for (piece, id, kind, bytes) in [
        ("[PAD]", 0, PieceKind::Control, &b""[..]),
        ("[EOS]", 2, PieceKind::Control, b""),
        ("[UNK]", 3, PieceKind::Unknown, b"[UNK]"),
        ("\n", 4, PieceKind::UserDefined, b"\n"),
        ("<|separator|>", 47, PieceKind::UserDefined, b"<|separator|>"),
        ("<0x0A>", 79, PieceKind::Byte, b"\n"),
        ("<0xFF>", 324, PieceKind::Byte, b"\xff"),
        ("\u{2581}", 1987, PieceKind::Normal, b" "),
    ] {
        assert_eq!(tokenizer.id_of(piece), Some(id));
        assert_eq!(tokenizer.piece(id), Some(piece));
        assert_eq!(tokenizer.kind(id), Some(kind));
        assert_eq!(tokenizer.token_bytes(id).as_deref(), Some(bytes));
    }
    assert_eq!(tokenizer.id_of("no such piece"), None);
    assert_eq!(
        (tokenizer.piece(2048), tokenizer.kind(2048), tokenizer.token_bytes(2048)),
        (None, None, None)
    );
    assert_eq!(tokenizer.special_tokens().count(), 3 + 65);
    assert!(tokenizer.special_tokens().any(|token| token == (48, "<|mask|>", PieceKind::UserDefined)));
}

#[test]
fn a_token_outside_the_vocabulary_is_an_error_that_names_it() {
    let tokenizer = Arc::new(tiny());
    let expected = TokenizerError::Token { id: 2048, vocabulary: 2048 };
    assert_eq!(expected.to_string(), "token 2048 is outside the vocabulary of 2048");
    assert_eq!(tokenizer.decode(&[5, 2048]).unwrap_err(), expected);
    assert_eq!(TextStream::new(tokenizer).push(2048).unwrap_err(), expected);
}

#[test]
fn a_continuation_is_encoded_without_a_space_in_front() {
    let tokenizer = tiny();
    for (before, after) in [("To be", " or not"), ("Rom", "eo"), ("x", ""), ("a\n", "\nb")] {
        let mut ids = tokenizer.encode(before);
        ids.extend(tokenizer.encode_continuation(after));
        assert_eq!(tokenizer.decode(&ids).unwrap(), format!("{before}{after}"));
    }
    assert!(tokenizer.encode_continuation("").is_empty());
}

/// Ids of all goldens, and random ones, half of them byte pieces.
fn token_sequences() -> Vec<Vec<u32>> {
    let goldens = lines(&here("tests/fixtures/tokenizer/tiny_encode.jsonl"));
    let mut sequences: Vec<_> = goldens.iter().map(|case| ids(&case["ids"])).collect();
    let mut random = Random(1);
    for _ in 0..2000 {
        let len = random.below(20);
        let id = |random: &mut Random| {
            if random.below(2) == 0 { 69 + random.below(256) } else { random.below(2048) }
        };
        sequences.push((0..len).map(|_| id(&mut random) as u32).collect());
    }
    sequences
}

#[test]
fn a_stream_gives_what_decode_gives() {
    let tokenizer = Arc::new(tiny());
    for ids in token_sequences() {
        let text = tokenizer.decode(&ids).unwrap();
        assert_eq!(streamed(TextStream::new(tokenizer.clone()), &ids), text, "{ids:?}");
        let held = TextStream::new(tokenizer.clone()).stop(["\n\n\n\n\n\n\n\n\n\n\n?", "zzzzz"]).unwrap();
        assert_eq!(streamed(held, &ids), text, "{ids:?} with stop strings that do not occur");
    }
}

#[test]
fn a_continuing_stream_gives_what_decode_gives_behind_other_text() {
    let tokenizer = Arc::new(tiny());
    let before = tokenizer.encode("x");
    for ids in token_sequences() {
        let all = tokenizer.decode(&[&before[..], &ids].concat()).unwrap();
        assert_eq!(format!("x{}", streamed(TextStream::continuing(tokenizer.clone()), &ids)), all, "{ids:?}");
    }
}

#[test]
fn a_stream_gives_characters_whole_and_at_once() {
    let tokenizer = Arc::new(tiny());
    let mut stream = TextStream::new(tokenizer);
    let given =
        [0xf0, 0x9f, 0x99, 0x82, 0xe2, 0x82, 0x41].map(|byte| stream.push(69 + byte).unwrap().to_owned());
    assert_eq!(given, ["", "", "", "🙂", "", "", "\u{fffd}\u{fffd}A"]);
    assert_eq!(stream.push(69 + 0xc3).unwrap(), "");
    assert_eq!(stream.finish(), "\u{fffd}");
    assert_eq!(stream.finish(), "");
}

/// All text up to the first stop string, and which one that is, found by looking at every prefix of the text.
fn cut<'a>(text: &'a str, stops: &[&str]) -> (&'a str, Option<usize>) {
    for end in text.char_indices().map(|(at, character)| at + character.len_utf8()) {
        let ending = stops.iter().enumerate().filter(|(_, stop)| text[..end].ends_with(*stop));
        if let Some((index, stop)) = ending.max_by_key(|(_, stop)| stop.len()) {
            return (&text[..end - stop.len()], Some(index));
        }
    }
    (text, None)
}

#[test]
fn a_stop_string_ends_the_text_wherever_tokens_begin_and_end() {
    let tokenizer = Arc::new(tiny());
    let mut random = Random(2);
    let mut stopped = 0;
    for _ in 0..5000 {
        // Characters as byte tokens and words as pieces, over an alphabet in which stop strings are frequent.
        let ids: Vec<u32> = (0..random.below(24))
            .flat_map(|_| match random.below(4) {
                0 => tokenizer.encode_continuation(["aab", "ab", "éa", "ba"][random.below(4)]),
                _ => ["a", "b", "é"][random.below(3)].bytes().map(|byte| 69 + u32::from(byte)).collect(),
            })
            .collect();
        let stops: &[&str] =
            [&["aab"][..], &["éé", "éab"], &["abab", "ba", "bba"], &["aaaab", "aaé"]][random.below(4)];
        let text = tokenizer.decode(&ids).unwrap();
        let mut stream = TextStream::new(tokenizer.clone()).stop(stops).unwrap();
        let given: String = ids.iter().map(|&id| stream.push(id).unwrap().to_owned()).collect();
        let (expected, index) = cut(&text, stops);
        assert_eq!(stream.stopped(), index, "{text:?} with {stops:?}");
        assert_eq!(given + stream.finish(), expected, "{text:?} with {stops:?}");
        stopped += usize::from(index.is_some());
    }
    assert!((1000..4000).contains(&stopped), "{stopped} of 5000 texts met a stop string");
}

#[test]
fn what_cannot_become_a_stop_string_is_given_at_once() {
    let tokenizer = Arc::new(tiny());
    let mut stream = TextStream::new(tokenizer).stop(["aab", "\n\nUser:"]).unwrap();
    let mut push = |text: &str| -> Vec<String> {
        text.bytes().map(|byte| stream.push(69 + u32::from(byte)).unwrap().to_owned()).collect()
    };
    assert_eq!(push("xaaa"), ["x", "", "", "a"]);
    assert_eq!(push("c\n\nUs-"), ["aac", "", "", "", "", "\n\nUs-"]);
    assert_eq!(push("aabb"), ["", "", "", ""]);
    assert_eq!(stream.stopped(), Some(0));
    assert_eq!(stream.finish(), "");
}

#[test]
fn an_empty_stop_string_is_refused() {
    let error = TextStream::new(Arc::new(tiny())).stop(["a", ""]).unwrap_err();
    assert_eq!(error.to_string(), "stop string 1 is empty");
    assert_eq!(grok1::Error::from(error).kind(), grok1::ErrorKind::Argument);
}

#[test]
fn a_tokenizer_and_its_streams_are_owned_and_cross_threads() {
    fn owned<T: Send + Sync + 'static>() {}
    owned::<Tokenizer>();
    owned::<TextStream>();
    assert_eq!(format!("{:?}", tiny()), "Tokenizer { len: 2048, .. }");
}

/// Vocabularies that [`Tokenizer::new`] refuses, with the message.
#[test]
fn a_vocabulary_that_cannot_work_is_refused() {
    let piece = |text: &str, kind| VocabEntry { text: text.into(), score: 0.0, kind };
    let valid = Vocabulary {
        entries: vec![piece("<unk>", PieceKind::Unknown), piece("a", PieceKind::Normal)],
        add_dummy_prefix: true,
        unk: Some(0),
        bos: None,
        eos: None,
        pad: None,
        unk_surface: String::new(),
    };
    let bytes =
        |count: u8| (0..count).map(|byte| piece(&format!("<0x{byte:02X}>"), PieceKind::Byte)).collect();
    let mut scored = piece("b", PieceKind::Normal);
    scored.score = f32::NAN;
    assert!(Tokenizer::new(valid.clone()).is_ok());
    let with = |entry| [valid.entries.clone(), vec![entry]].concat();
    for (vocabulary, message) in [
        (Vocabulary { entries: vec![], ..valid.clone() }, "no pieces"),
        (Vocabulary { entries: with(piece("", PieceKind::Normal)), ..valid.clone() }, "piece 2 is empty"),
        (Vocabulary { entries: with(scored), ..valid.clone() }, "the score of piece 2 is not a number"),
        (
            Vocabulary { entries: with(piece("a", PieceKind::Control)), ..valid.clone() },
            "pieces 1 and 2 are both \"a\"",
        ),
        (
            Vocabulary { entries: with(piece("<0x0a>", PieceKind::Byte)), ..valid.clone() },
            "byte piece 2 is \"<0x0a>\", expected <0x00> to <0xFF>",
        ),
        (
            Vocabulary { entries: bytes(255), ..valid.clone() },
            "there is no piece for byte 0xFF, but for others",
        ),
        (Vocabulary { unk: None, ..valid.clone() }, "neither byte pieces nor an unknown piece"),
        (Vocabulary { eos: Some(2), ..valid.clone() }, "eos is token 2, there are 2"),
    ] {
        let error = Tokenizer::new(vocabulary).unwrap_err();
        assert_eq!(error.to_string(), format!("vocabulary: {message}"));
        assert_eq!(grok1::Error::from(error).kind(), grok1::ErrorKind::Format);
    }
}

/// Texts of one megabyte that would make a careless encoder quadratic.
#[test]
fn a_megabyte_of_anything_round_trips() {
    let (tokenizer, _) = grok().unwrap_or_else(|| (tiny(), PathBuf::new()));
    let kind = ["a", " ", "\n", "ab", "日本", "🙂", "<|", "\u{e000}"];
    for text in kind.map(|unit| unit.repeat((1 << 20) / unit.len())) {
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text)).unwrap(), text);
    }
}
