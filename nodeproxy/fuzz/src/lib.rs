//! Inputs for the fuzz targets: the checked-in corpus, and what random damage makes of it.
//!
//! ```text
//!   corpus/<target>/* ──► corpus ──► tests/fuzz: as they are      (cargo test)
//!                           └─► Damaged ─► tests/fuzz: by a seed  (cargo test)
//!   corpus/<target>/* ──► libFuzzer ──► tests/fuzz: by coverage   (make fuzz)
//! ```
//!
//! Owns where the corpus is and how inputs are damaged; the targets are in `tests/fuzz`, which is an ordinary test and, with
//! feature `fuzzing`, a libFuzzer binary. Invariant: a seed gives the same inputs on every machine.

use std::{fs, io, path::Path};

use fastrand::Rng;

/// Bytes that lengths, counts and ends often have.
const BOUNDARIES: [u8; 10] = [0, 1, 4, 8, 16, 0x7f, 0x80, 0xff, b'"', b'}'];
/// Most bytes that a damaged input has.
const LIMIT: usize = 16 << 10;

/// One file of a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Name of the file.
    pub name: String,
    /// Content of the file.
    pub bytes: Vec<u8>,
}

/// The checked-in inputs of a target, in the order of their names.
///
/// # Errors
/// If the folder cannot be read.
pub fn corpus(target: &str) -> io::Result<Vec<Input>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut inputs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        inputs.push(Input { name, bytes: fs::read(entry.path())? });
    }
    inputs.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(inputs)
}

/// Inputs without end: each is one of a corpus with some damage, and now and then nothing but random bytes.
#[derive(Debug)]
pub struct Damaged<'a> {
    corpus: &'a [Input],
    random: Rng,
}

impl<'a> Damaged<'a> {
    /// Damages a corpus by a seed.
    pub fn new(corpus: &'a [Input], seed: u64) -> Self {
        Self { corpus, random: Rng::with_seed(seed) }
    }

    fn random_bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.random.usize(0..=most)).map(|_| self.random.u8(..)).collect()
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let (start, end) = (self.random.usize(0..=bytes.len()), self.random.usize(0..=bytes.len()));
        let range = start.min(end)..start.max(end).min(start.min(end) + 64);
        match self.random.u8(0..7) {
            0 => bytes.truncate(end),
            1 => drop(bytes.drain(range)),
            2 => {
                let again = bytes[range].to_vec();
                bytes.splice(end..end, again);
            }
            3 => {
                let other = self.random.choice(self.corpus).map_or(&[][..], |input| &input.bytes);
                let from = self.random.usize(0..=other.len());
                bytes.splice(end..end, other[from..].iter().copied());
            }
            4 => self.damage_lines(bytes),
            5 => {
                let boundary = self.random.choice(BOUNDARIES).unwrap_or_default();
                bytes[start.min(end)..].iter_mut().take(1).for_each(|byte| *byte = boundary);
            }
            _ => {
                let flip = 1 << self.random.u8(0..8);
                bytes[start.min(end)..].iter_mut().take(1).for_each(|byte| *byte ^= flip);
            }
        }
        bytes.truncate(LIMIT);
    }

    /// Takes a line out, or puts it at another place, or both.
    fn damage_lines(&mut self, bytes: &mut Vec<u8>) {
        let mut lines: Vec<_> = bytes.split(|byte| *byte == b'\n').collect();
        let (from, to) = (self.random.usize(..lines.len()), self.random.usize(..lines.len()));
        let line = lines[from];
        if self.random.bool() {
            lines.remove(from);
        }
        if self.random.bool() {
            lines.insert(to.min(lines.len()), line);
        }
        *bytes = lines.join(&b'\n');
    }
}

impl Iterator for Damaged<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.random.u8(0..4) == 0 {
            return Some(self.random_bytes(1000));
        }
        let mut bytes = self.random.choice(self.corpus).map(|input| input.bytes.clone()).unwrap_or_default();
        for _ in 0..self.random.usize(1..5) {
            self.damage(&mut bytes);
        }
        Some(bytes)
    }
}
