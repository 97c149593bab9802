//! Choosing tokens by the best few logits, on a device that keeps the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use grok1::backend::cpu::Cpu;
use grok1::backend::{
    Backend, Batch, Branch, Candidates, KvPart, KvType, Observer, PageId, Precision, WeightStorage,
};
use grok1::checkpoint;
use grok1::weights::{Head, Layer};
use grok1::{Control, Entry, Generation, Model, ModelOptions, Piece, Result, Sampler, Threads, Want};

use crate::models::{any_batch, tiny, tiny_path};
use crate::same_bits;

/// Rows whose logits were moved to the host.
type Moved = Arc<AtomicUsize>;

/// The processor, with its logits out of reach.
struct Remote(Cpu, Moved);

impl Backend for Remote {
    type Layer = <Cpu as Backend>::Layer;
    type Head = <Cpu as Backend>::Head;
    type Cache = <Cpu as Backend>::Cache;
    type Scratch = <Cpu as Backend>::Scratch;

    fn name(&self) -> String {
        "remote".to_owned()
    }

    fn load_layer(&self, layer: &Layer, control: &Control) -> Result<Self::Layer> {
        self.0.load_layer(layer, control)
    }

    fn load_head(&self, head: &Head, control: &Control) -> Result<Self::Head> {
        self.0.load_head(head, control)
    }

    fn cache(&self, kv: KvType) -> Self::Cache {
        self.0.cache(kv)
    }

    fn scratch(&self) -> Self::Scratch {
        self.0.scratch()
    }

    fn allocate_page(&self, cache: &mut Self::Cache, page: PageId) -> Result<()> {
        self.0.allocate_page(cache, page)
    }

    fn free_page(&self, cache: &mut Self::Cache, page: PageId) {
        self.0.free_page(cache, page);
    }

    fn copy_page(&self, cache: &mut Self::Cache, from: PageId, to: PageId) -> Result<()> {
        self.0.copy_page(cache, from, to)
    }

    fn read_page(
        &self,
        cache: &Self::Cache,
        page: PageId,
        layer: usize,
        part: KvPart,
        out: &mut [u8],
    ) -> Result<()> {
        self.0.read_page(cache, page, layer, part, out)
    }

    fn write_page(
        &self,
        cache: &mut Self::Cache,
        page: PageId,
        layer: usize,
        part: KvPart,
        values: &[u8],
    ) -> Result<()> {
        self.0.write_page(cache, page, layer, part, values)
    }

    fn embed(&self, head: &Self::Head, batch: &Batch<'_>, scratch: &mut Self::Scratch) -> Result<()> {
        self.0.embed(head, batch, scratch)
    }

    fn attention(
        &self,
        layer: &Self::Layer,
        index: usize,
        batch: &Batch<'_>,
        cache: &mut Self::Cache,
        scratch: &mut Self::Scratch,
    ) -> Result<()> {
        self.0.attention(layer, index, batch, cache, scratch)
    }

    fn route(&self, layer: &Self::Layer, batch: &Batch<'_>, scratch: &mut Self::Scratch) -> Result<()> {
        self.0.route(layer, batch, scratch)
    }

    fn experts(&self, layer: &Self::Layer, batch: &Batch<'_>, scratch: &mut Self::Scratch) -> Result<()> {
        self.0.experts(layer, batch, scratch)
    }

    fn residual(
        &self,
        layer: &Self::Layer,
        branch: Branch,
        batch: &Batch<'_>,
        scratch: &mut Self::Scratch,
    ) -> Result<()> {
        self.0.residual(layer, branch, batch, scratch)
    }

    fn head(
        &self,
        head: &Self::Head,
        batch: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Self::Scratch,
        logits: &mut [f32],
    ) -> Result<()> {
        self.1.fetch_add(rows.len(), Relaxed);
        self.0.head(head, batch, rows, scratch, logits)
    }

    fn keeps_logits(&self) -> bool {
        true
    }

    fn candidates(
        &self,
        head: &Self::Head,
        batch: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Self::Scratch,
        room: &mut [f32],
        out: &mut [Candidates],
    ) -> Result<()> {
        self.0.candidates(head, batch, rows, scratch, room, out)
    }

    fn normed(
        &self,
        head: &Self::Head,
        batch: &Batch<'_>,
        rows: &[u32],
        scratch: &mut Self::Scratch,
        out: &mut [f32],
    ) -> Result<()> {
        self.0.normed(head, batch, rows, scratch, out)
    }

    fn write_hidden(&self, scratch: &mut Self::Scratch, hidden: &[f32]) -> Result<()> {
        self.0.write_hidden(scratch, hidden)
    }

    fn observe_routing(
        &self,
        scratch: &Self::Scratch,
        layer: usize,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.0.observe_routing(scratch, layer, observer)
    }

    fn observe_hidden(
        &self,
        scratch: &Self::Scratch,
        layer: usize,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.0.observe_hidden(scratch, layer, observer)
    }
}

/// The trained model on such a device.
fn remote() -> (Model, Moved) {
    let checkpoint = checkpoint::open(tiny_path(), None).unwrap();
    let threads = Arc::new(Threads::new(2).unwrap());
    let cpu = Cpu::new(checkpoint.config.clone(), Precision::Exact, WeightStorage::Mapped, threads);
    let moved = Moved::default();
    let backend = Remote(cpu, moved.clone());
    (Model::load_on(backend, checkpoint, ModelOptions::new(), &Control::new()).unwrap(), moved)
}

fn greedy() -> Sampler {
    Sampler::new().greedy()
}

fn generate(model: &Model, mut sampler: Sampler, count: usize) -> Vec<Piece> {
    let mut session = model.session().unwrap();
    let pieces = session.generate("The king", &mut sampler).max_tokens(count).ignore_end_of_text(true);
    pieces.map(Result::unwrap).collect()
}

#[test]
fn text_is_the_same_as_from_all_logits() {
    let (processor, (remote, moved)) = (tiny(any_batch()), remote());
    let sampler = Sampler::new().temperature(0.8).seed(3);
    let (none, some, all) = (0..=0, 1..=29, 30..=30);
    for (sampler, expected) in [
        (greedy(), &none),
        (greedy().alternatives(3), &none),
        (sampler.clone().top_k(40), &none),
        (sampler.clone().top_k(40).top_p(0.9).min_p(0.01).logprobs(false), &none),
        (sampler.clone().min_p(0.05), &none),
        (sampler.clone().top_p(0.9), &none),
        // Now and then more tokens than can be asked for are in the nucleus.
        (sampler.clone().temperature(1.2).top_p(0.95), &some),
        (sampler.clone().temperature(9.0).top_p(0.95), &all),
        (sampler.clone(), &all),
        (sampler.clone().top_k(40).repetition_penalty(1.1), &all),
        (sampler.top_p(0.9).filter(|_, logits| logits[300] = f32::NEG_INFINITY), &all),
    ] {
        let what = format!("{sampler:?}");
        moved.store(0, Relaxed);
        assert_eq!(generate(&remote, sampler.clone(), 30), generate(&processor, sampler, 30), "{what}");
        let rows = moved.load(Relaxed);
        assert!(expected.contains(&rows), "{what}: logits of {rows} rows were moved");
    }
}

#[test]
fn who_asks_for_logits_gets_them() {
    let (remote, moved) = remote();
    let sessions = [tiny(any_batch()), remote].map(|model| {
        let mut session = model.session().unwrap();
        let mut sampler = greedy();
        assert_eq!(session.generate("The king", &mut sampler).max_tokens(5).count(), 5);
        // The token that was chosen last is taken back.
        session.truncate(session.position());
        session
    });
    assert_eq!(moved.load(Relaxed), 0);
    let [expected, mut found] = sessions;
    let expected_logits = expected.logits().unwrap();
    let fork = found.fork();
    let before = found.model().kv_bytes();
    assert!(
        same_bits(found.logits().unwrap(), expected_logits)
            && same_bits(found.logits().unwrap(), expected_logits)
    );
    assert_eq!((moved.load(Relaxed), found.model().kv_bytes()), (1, before));
    assert!(same_bits(fork.logits().unwrap(), expected_logits));
    let save = |session: &grok1::Session| {
        let mut bytes = Vec::new();
        session.save(&mut bytes, None, &Control::new()).unwrap();
        bytes
    };
    assert!(save(&fork) == save(&expected));
    let scores = found.score(&[5], &Control::new()).unwrap();
    assert_eq!(scores, expected.fork().score(&[5], &Control::new()).unwrap());
}

#[test]
fn another_sampler_than_the_run_was_for_chooses_as_from_all_logits() {
    let (processor, (remote, _)) = (tiny(any_batch()), remote());
    let samplers = [
        greedy(),
        Sampler::new().seed(5),
        Sampler::new().top_k(7).seed(5),
        Sampler::new().top_p(0.5).seed(5),
        Sampler::new().temperature(0.3).top_p(0.99).seed(5),
        Sampler::new().min_p(0.1).seed(5),
        greedy().logit_bias(300, 90.0),
    ];
    let prompt = processor.tokenizer().unwrap().encode("The king");
    for run_for in &samplers {
        let mut session = remote.session().unwrap();
        remote
            .run(&mut [Entry::new(&mut session, &prompt).want(Want::Sample(run_for))], &Control::new())
            .unwrap();
        for sampler in &samplers {
            let accept = |mut session| {
                let mut generation = Generation::new();
                generation.accept(&mut session, &mut sampler.clone()).unwrap().unwrap()
            };
            let mut plain = processor.session().unwrap();
            plain.feed(&prompt, &Control::new()).unwrap();
            assert_eq!(accept(session.fork()), accept(plain), "{sampler:?} after {run_for:?}");
        }
    }
}

#[test]
fn sessions_of_a_batch_get_what_each_sampler_needs() {
    let (remote, moved) = remote();
    let tokenizer = remote.tokenizer().unwrap();
    let samplers = [
        Some(greedy()),
        None,
        Some(Sampler::new().temperature(0.7).top_p(0.9).seed(1)),
        Some(Sampler::new().seed(2)),
        Some(Sampler::new().top_k(3).seed(3)),
        Some(Sampler::new().temperature(20.0).top_p(0.9).seed(4)),
    ];
    let prompts: Vec<_> =
        ["The king", "KING", "To be", "In", "O", "And"].map(|text| tokenizer.encode(text)).into();
    let mut sessions = [(); 6].map(|()| remote.session().unwrap());
    let entries = sessions.iter_mut().zip(&prompts).zip(&samplers);
    let mut entries: Vec<_> = entries
        .map(|((session, prompt), sampler)| {
            let entry = Entry::new(session, prompt);
            if let Some(sampler) = sampler { entry.want(Want::Sample(sampler)) } else { entry }
        })
        .collect();
    remote.run(&mut entries, &Control::new()).unwrap();
    drop(entries);
    // Those of the session without a sampler, of the sampler that draws from all, and of the one whose nucleus is too large.
    assert_eq!(moved.load(Relaxed), 3);
    for ((session, prompt), sampler) in sessions.iter_mut().zip(&prompts).zip(samplers) {
        let mut sampler = sampler.unwrap_or_else(greedy);
        let mut alone = remote.session().unwrap();
        alone.feed(prompt, &Control::new()).unwrap();
        let expected = Generation::new().accept(&mut alone, &mut sampler.clone()).unwrap();
        assert_eq!(Generation::new().accept(session, &mut sampler).unwrap(), expected, "{sampler:?}");
    }
}
