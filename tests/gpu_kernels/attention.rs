//! Kernels of attention: projections into the cache, spans, and what they merge to.

use std::ops::Range;

use grok1::KvType;
use grok1::backend::PAGE;
use grok1::backend::gpu::kernels::{
    Cache, FLASH_MMA_QUERIES, FLASH_QUERIES, Format, Kernel, Matrix, Rows, THREADS, TILE_OUTPUTS,
    attention_shared_bytes, flash_mma_shared_bytes, flash_shared_bytes,
};
use half::bf16;

use crate::machine::{
    MMA_HEAD_DIMS, Machine, STAGED, assert_close, bits, buffer, mma_results, random, results, to_bf16,
};
use crate::simt::Buffer;
use crate::weights::{Weights, dot};

const LAYERS: usize = 2;

/// The second of them.
const LAYER: usize = 1;

#[derive(Clone, Copy)]
struct Heads {
    query: usize,
    kv: usize,
    dim: usize,
}

const HEADS: [Heads; 3] = [
    Heads { query: 6, kv: 2, dim: 24 },
    Heads { query: 7, kv: 1, dim: 10 },
    Heads { query: 4, kv: 4, dim: 128 },
];

/// Pages with keys and values, and the rows that see them, each of a sequence of its own.
struct Paged {
    heads: Heads,
    kv: KvType,
    pages: Vec<Buffer<u8>>,
    addresses: Buffer<u64>,
    first: Buffer<i32>,
    positions: Buffer<i32>,
}

impl Paged {
    /// Pages for rows at `positions`, full of `bytes`.
    fn new(heads: Heads, kv: KvType, positions: &[i32], mut byte: impl FnMut() -> u8) -> Self {
        let size = LAYERS * 2 * heads.kv * PAGE * heads.dim * kv.size();
        let counts = positions.iter().map(|&position| position as usize / PAGE + 1);
        let first: Vec<i32> = counts
            .clone()
            .scan(0, |next, count| {
                *next += count as i32;
                Some(*next - count as i32)
            })
            .collect();
        let page = |_| Buffer::of(&(0..size).map(|_| byte()).collect::<Vec<u8>>());
        let pages: Vec<_> = (0..counts.sum::<usize>()).map(page).collect();
        let addresses = Buffer::of(&pages.iter().map(Buffer::address).collect::<Vec<_>>());
        Self { heads, kv, pages, addresses, first: Buffer::of(&first), positions: Buffer::of(positions) }
    }

    /// Pages for rows of some sequences, each of which has rows at consecutive positions.
    fn of_sequences(heads: Heads, kv: KvType, sequences: &[Range<i32>], byte: impl FnMut() -> u8) -> Self {
        let last: Vec<i32> = sequences.iter().map(|rows| rows.end - 1).collect();
        let mut paged = Self::new(heads, kv, &last, byte);
        let of_row = |(rows, &first): (&Range<i32>, &i32)| rows.clone().map(move |_| first);
        let first: Vec<i32> = sequences.iter().zip(paged.first.values()).flat_map(of_row).collect();
        paged.first = Buffer::of(&first);
        paged.positions = Buffer::of(&sequences.iter().cloned().flatten().collect::<Vec<_>>());
        paged
    }

    fn cache(&self) -> Cache {
        Cache {
            pages: self.addresses.address(),
            first: self.first.address(),
            positions: self.positions.address(),
            layer: LAYER as i32,
            kv_heads: self.heads.kv as i32,
            head_dim: self.heads.dim as i32,
            is_bf16: i32::from(self.kv == KvType::BF16),
        }
    }

    /// The key (0) or value (1) of a head at a position of the row's sequence.
    fn at(&self, row: usize, part: usize, head: usize, position: usize) -> Vec<f32> {
        let page = &self.pages[self.first.values()[row] as usize + position / PAGE];
        let index = ((LAYER * 2 + part) * self.heads.kv + head) * PAGE + position % PAGE;
        let size = self.kv.size();
        let bytes = &page.values()[index * self.heads.dim * size..][..self.heads.dim * size];
        match self.kv {
            KvType::F32 => bytes.chunks(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            _ => bytes.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        }
    }

    /// How many bytes are not as they were made by [`new`](Self::new) with 0xff.
    fn written(&self) -> usize {
        self.pages.iter().flat_map(|page| page.values()).filter(|&&byte| byte != 0xff).count()
    }
}

/// Cosine and sine for positions, as `Rotary` has them.
fn rotary(dim: usize, positions: usize) -> Vec<f32> {
    let angle = |p: usize, j: usize| p as f64 * 10_000_f64.powf(-2.0 * j as f64 / dim as f64);
    (0..positions)
        .flat_map(|p| (0..dim / 2).map(move |j| angle(p, j)))
        .flat_map(|angle| [angle.cos() as f32, angle.sin() as f32])
        .collect()
}

fn rotate(head: &[f64], angles: &[f32]) -> Vec<f64> {
    let half = head.len() / 2;
    let turned = (0..head.len()).map(|j| {
        let [cos, sin] = [angles[j % half * 2], angles[j % half * 2 + 1]].map(f64::from);
        if j < half { head[j] * cos - head[half + j] * sin } else { head[j] * cos + head[j - half] * sin }
    });
    turned.collect()
}

/// Queries, keys and values of some rows.
struct Projection<'a> {
    format: Format,
    weights: &'a [Weights; 3],
    heads: Heads,
    kv: KvType,
    rotary: &'a [f32],
    round: bool,
}

impl Projection<'_> {
    /// Queries of all rows, then keys and values of each; `launches` are numbers of heads. None: by products of their own.
    fn run(&self, machine: &Machine, x: &[f32], positions: &[i32], launches: &[usize]) -> Vec<f32> {
        let Heads { query, kv, dim } = self.heads;
        let (count, format) = (positions.len(), self.format);
        let rows = Rows::of(count);
        let paged = Paged::new(self.heads, self.kv, positions, || 0xff);
        let queries = Buffer::<f32>::new(count * query * dim);
        let (x, rotary) = (buffer(x), buffer(self.rotary));
        let [q, k, v] = self.weights.each_ref().map(|weights| weights.matrix(machine));
        let mut first = 0;
        for heads in launches {
            let grid = [(dim / 2).div_ceil(format.strip()), *heads, count.div_ceil(rows.count())];
            machine.launch(
                Kernel::Qkv(format, rows),
                grid,
                0,
                &[
                    &queries,
                    &paged.cache(),
                    &x,
                    &q,
                    &k,
                    &v,
                    &rotary,
                    &(query as i32),
                    &(first as i32),
                    &(count as i32),
                    &i32::from(self.round),
                ],
            );
            first += heads;
        }
        if launches.is_empty() {
            let project = |weights: Matrix, heads: usize| {
                let out = Buffer::<f32>::new(count * heads * dim);
                machine.launch(
                    Kernel::Linear(format, rows),
                    [(heads * dim).div_ceil(format.strip()), count.div_ceil(rows.count()), 1],
                    0,
                    &[&out, &x, &weights, &(count as i32), &1_f32, &0_f32],
                );
                out
            };
            let [q, k, v] = [project(q, query), project(k, kv), project(v, kv)];
            let grid = [((query + 2 * kv) * dim / 2).div_ceil(THREADS), count, 1];
            let (cache, round) = (paged.cache(), i32::from(self.round));
            machine.launch(
                Kernel::Rotary,
                grid,
                0,
                &[&queries, &cache, &q, &k, &v, &rotary, &(query as i32), &round],
            );
        }
        let mut out = queries.values().to_vec();
        for (row, &position) in positions.iter().enumerate() {
            for part in [0, 1] {
                let at = |head| paged.at(row, part, head, position as usize);
                out.extend((0..kv).flat_map(at));
            }
        }
        // Nothing else has been written; a byte of a value may be 0xff.
        assert!(paged.written() <= count * 2 * kv * dim * self.kv.size());
        out
    }

    /// By definition.
    fn expected(&self, x: &[f32], positions: &[i32]) -> Vec<f64> {
        let Heads { dim, .. } = self.heads;
        let width = x.len() / positions.len();
        let part = |part: usize, row: usize| -> Vec<f64> {
            let product = self.weights[part].product(0, &x[row * width..][..width]);
            let angles = &self.rotary[positions[row] as usize * dim..][..dim];
            product
                .chunks(dim)
                .flat_map(|head| if part < 2 { rotate(head, angles) } else { head.to_vec() })
                .collect()
        };
        let rows = 0..positions.len();
        let queries = rows.clone().flat_map(|row| part(0, row));
        queries.chain(rows.flat_map(|row| [part(1, row), part(2, row)].concat())).collect()
    }
}

#[test]
fn projections_conform_and_do_not_depend_on_the_batch() {
    let positions = [0, 5, 63, 64, 65, 130, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 70, 71];
    for (kind, width) in [256, 70, 96, 256, 512].into_iter().enumerate() {
        for (heads, kv) in HEADS.into_iter().zip([KvType::F32, KvType::BF16, KvType::F32]) {
            if STAGED[kind].packed && !(heads.dim / 2).is_multiple_of(TILE_OUTPUTS) {
                continue;
            }
            let shape =
                |seed, count| Weights::new(seed, STAGED[kind], [width, count * heads.dim], 1, [width / 2, 1]);
            let weights = [shape(1, heads.query), shape(2, heads.kv), shape(3, heads.kv)];
            let rotary = rotary(heads.dim, 131);
            let projection = Projection {
                format: STAGED[kind].format(),
                weights: &weights,
                heads,
                kv,
                rotary: &rotary,
                round: false,
            };
            let x = random(4, positions.len() * width, 1.0);
            let run = |count: usize, launches: &[usize]| {
                results(|machine| projection.run(machine, &x[..count * width], &positions[..count], launches))
            };
            let once = [heads.query + 2 * heads.kv];
            let all = run(positions.len(), &once);
            let bound = if kv == KvType::BF16 { 1e-2 } else { 2e-6 };
            assert_close("projection", &all, &projection.expected(&x, &positions), bound);
            for count in [1, 2, 5, 16] {
                let queries = count * heads.query * heads.dim;
                for (some, all) in run(count, &once).iter().zip(&all) {
                    assert_eq!(bits(&some[..queries]), bits(&all[..queries]), "{count} rows");
                }
            }
            let rounded = Projection { round: true, ..projection };
            let rounded = results(|machine| rounded.run(machine, &x[..width], &positions[..1], &once));
            for (rounded, exact) in rounded.iter().zip(run(1, &once)) {
                let queries = heads.query * heads.dim;
                assert_eq!(bits(&rounded[..queries]), bits(&to_bf16(&exact[..queries])));
                assert_eq!(bits(&rounded[queries..]), bits(&exact[queries..]));
            }
            // Formats may differ: then each of the three is a launch.
            let apart = run(2, &[heads.query, heads.kv, heads.kv]);
            let products = run(2, &[]);
            for ((apart, products), together) in apart.iter().zip(&products).zip(run(2, &once)) {
                assert_eq!(bits(apart), bits(&together));
                assert_eq!(bits(products), bits(&together));
            }
        }
    }
}

#[test]
fn projections_by_matrix_instructions_are_what_they_are_without() {
    let (heads, positions) = (HEADS[2], [3, 0, 70, 5, 9, 64]);
    let (width, rotary) = (512, rotary(heads.dim, 71));
    for kind in STAGED.into_iter().filter(|kind| kind.packed) {
        let shape = |seed, count| Weights::new(seed, kind, [width, count * heads.dim], 1, [width / 2, 1]);
        let weights = [shape(1, heads.query), shape(2, heads.kv), shape(3, heads.kv)];
        let x = to_bf16(&random(4, positions.len() * width, 1.0));
        for count in [1, 3, 6] {
            let run = |format| {
                let projection = Projection {
                    format,
                    weights: &weights,
                    heads,
                    kv: KvType::F32,
                    rotary: &rotary,
                    round: false,
                };
                let launches = [heads.query + 2 * heads.kv];
                mma_results(|machine| {
                    projection.run(machine, &x[..count * width], &positions[..count], &launches)
                })
            };
            let without = run(kind.format());
            let expected: Vec<f64> = without.iter().flatten().map(|&x| f64::from(x)).collect();
            assert_close("projection", &run(kind.format().with_mma().unwrap()), &expected, 2e-6);
        }
    }
}

/// Attention of rows over their caches, and what it is by definition.
struct Attention<'a> {
    paged: &'a Paged,
    query: &'a [f32],
    scale: f32,
    cap: f32,
}

impl Attention<'_> {
    /// There may be more spans than any row needs.
    fn run(&self, machine: &Machine, spans: usize, round: i32) -> Vec<f32> {
        let Heads { query: heads, kv, dim } = self.paged.heads;
        let rows = self.paged.positions.values().len();
        let sums = Buffer::<f32>::new(rows * heads * spans * dim);
        let stats = Buffer::<f32>::new(rows * heads * spans * 2);
        let attended = Buffer::<f32>::new(rows * heads * dim);
        let shared = attention_shared_bytes(heads / kv, dim);
        let count = [heads, spans, dim].map(|size| size as i32);
        machine.launch(
            Kernel::Attention(self.paged.kv),
            [spans, kv, rows],
            shared,
            &[
                &sums,
                &stats,
                &buffer(self.query),
                &self.paged.cache(),
                &count[0],
                &count[1],
                &self.scale,
                &self.cap,
            ],
        );
        machine.launch(
            Kernel::Merge,
            [heads, rows, 1],
            0,
            &[&attended, &sums, &stats, &self.paged.positions, &count[0], &count[2], &count[1], &round],
        );
        attended.values().to_vec()
    }

    /// By a kernel of tiles, each of a first row and a number of rows.
    fn run_tiles(&self, machine: &Machine, kernel: Kernel, tiles: &[[i32; 2]], round: i32) -> Vec<f32> {
        let Heads { query: heads, kv, dim } = self.paged.heads;
        let attended = Buffer::<f32>::new(self.query.len());
        let shared = match kernel {
            Kernel::FlashMma(_) => flash_mma_shared_bytes(dim),
            _ => flash_shared_bytes(dim),
        };
        machine.launch(
            kernel,
            [tiles.len(), kv, 1],
            shared,
            &[
                &attended,
                &buffer(self.query),
                &self.paged.cache(),
                &Buffer::of(tiles),
                &(heads as i32),
                &self.scale,
                &self.cap,
                &round,
            ],
        );
        attended.values().to_vec()
    }

    fn expected(&self) -> Vec<f64> {
        let Heads { query: heads, kv, dim } = self.paged.heads;
        let mut out = Vec::new();
        for (row, &position) in self.paged.positions.values().iter().enumerate() {
            for head in 0..heads {
                let query = &self.query[(row * heads + head) * dim..][..dim];
                let at = |part, p| self.paged.at(row, part, head / (heads / kv), p);
                let (scale, cap) = (f64::from(self.scale), f64::from(self.cap));
                let score = |p| {
                    let score = dot(query, &at(0, p)) * scale;
                    if cap > 0.0 { cap * (score / cap).tanh() } else { score }
                };
                let exps: Vec<f64> = (0..=position as usize).map(|p| score(p).exp()).collect();
                let total: f64 = exps.iter().sum();
                let mut sum = vec![0.0; dim];
                for (p, exp) in exps.iter().enumerate() {
                    sum.iter_mut().zip(at(1, p)).for_each(|(sum, x)| *sum += exp / total * f64::from(x));
                }
                out.extend(sum);
            }
        }
        out
    }
}

/// Bytes of keys and values up to 1 of any kind: exponents of 0x3f or 0xbf and less.
fn elements(kv: KvType) -> impl FnMut() -> u8 {
    let mut random_bytes = crate::random::Random(1);
    let mut place = 0;
    move || {
        place += 1;
        let high = place % kv.size() == 0;
        let byte = random_bytes.next() as u8;
        if high { byte & 0x80 | 0x3e } else { byte }
    }
}

#[test]
fn attention_conforms_and_does_not_depend_on_the_batch() {
    let positions = [0, 300, 63, 64, 127, 128, 255, 7];
    for (heads, cap) in HEADS.into_iter().zip([2.0, 0.0, 30.0]) {
        for kv in [KvType::F32, KvType::BF16] {
            let paged = Paged::new(heads, kv, &positions, elements(kv));
            let query = random(2, positions.len() * heads.query * heads.dim, 2.0);
            let attention = Attention { paged: &paged, query: &query, scale: 0.7, cap };
            let found = results(|machine| attention.run(machine, 3, 0));
            assert_close("attention", &found, &attention.expected(), 3e-6);

            // The last rows with more spans than they need, and rounded.
            let width = heads.query * heads.dim;
            let alone = Paged {
                pages: Vec::new(),
                addresses: Buffer::of(paged.addresses.values()),
                first: Buffer::of(&paged.first.values()[6..]),
                positions: Buffer::of(&positions[6..]),
                ..paged
            };
            let attention = Attention { paged: &alone, query: &query[6 * width..], scale: 0.7, cap };
            let rounded = results(|machine| attention.run(machine, 5, 1));
            for (all, rounded) in found.iter().zip(&rounded) {
                assert_eq!(bits(rounded), bits(&to_bf16(&all[6 * width..])));
            }
            drop(paged.pages);
        }
    }
}

/// The tiles of some sequences, for blocks that take so many queries.
fn tiles(sequences: &[Range<i32>], heads: Heads, queries: usize) -> Vec<[i32; 2]> {
    let most = (queries / (heads.query / heads.kv)) as i32;
    let (mut out, mut row) = (Vec::new(), 0);
    for sequence in sequences {
        let end = row + sequence.len() as i32;
        while row < end {
            let rows = most.min(end - row);
            out.push([row, rows]);
            row += rows;
        }
    }
    out
}

/// Chunks of prompts: one from the start, one that goes on in the middle of a page, single rows, one from a page's end.
const SEQUENCES: [Range<i32>; 5] = [0..30, 100..145, 5..6, 192..193, 63..66];

/// Checks a kernel of tiles for heads whose keys and values are of a type.
fn check_tiles(kernel: Kernel, heads: Heads, kv: KvType, cap: f32, bound: f64) {
    let mma = matches!(kernel, Kernel::FlashMma(_));
    let queries = if mma { FLASH_MMA_QUERIES } else { FLASH_QUERIES };
    let on_machines = |run: &dyn Fn(&Machine) -> Vec<f32>| if mma { mma_results(run) } else { results(run) };
    let paged = Paged::of_sequences(heads, kv, &SEQUENCES, elements(kv));
    let rows = paged.positions.values().len();
    let query = to_bf16(&random(2, rows * heads.query * heads.dim, 2.0));
    let attention = Attention { paged: &paged, query: &query, scale: 0.7, cap };
    let tiles = tiles(&SEQUENCES, heads, queries);
    let found = on_machines(&|machine| attention.run_tiles(machine, kernel, &tiles, 0));
    assert_close(&kernel.name(), &found, &attention.expected(), bound);
    // Rows one by one, the last of which are in a tile with others above, and rounded.
    let alone: Vec<[i32; 2]> = (0..rows as i32).rev().step_by(9).map(|row| [row, 1]).collect();
    let rounded = on_machines(&|machine| attention.run_tiles(machine, kernel, &alone, 1));
    let width = heads.query * heads.dim;
    for (found, rounded) in found.iter().zip(&rounded) {
        for [row, _] in &alone {
            let own = *row as usize * width..(*row as usize + 1) * width;
            assert_eq!(bits(&rounded[own.clone()]), bits(&to_bf16(&found[own])), "row {row}");
        }
    }
}

#[test]
fn attention_by_tiles_conforms_and_does_not_depend_on_them() {
    for (heads, cap) in HEADS.into_iter().zip([2.0, 0.0, 30.0]) {
        for kv in [KvType::F32, KvType::BF16] {
            check_tiles(Kernel::Flash(kv), heads, kv, cap, 1e-5);
        }
    }
}

#[test]
fn attention_by_matrix_instructions_conforms_and_does_not_depend_on_tiles() {
    for ((query, kv), (dim, cap)) in
        [(6, 2), (7, 1), (6, 1)].into_iter().zip(MMA_HEAD_DIMS.into_iter().zip([2.0, 0.0, 30.0]))
    {
        // Weights have 16 bits, and in sums of values of both signs more than their share of the error.
        check_tiles(Kernel::FlashMma(dim), Heads { query, kv, dim }, KvType::BF16, cap, 2e-5);
    }
}
