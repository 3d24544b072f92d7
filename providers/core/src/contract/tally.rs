//! What a provider's crash tests survived, for the last line of `make test`.
//!
//! Owns: where a count is left. Leaves to others: adding up and printing (`scripts/crash-points.sh`). Invariant: a count is
//! there whole, or not at all.

use std::path::Path;
use std::{fs, io};

/// Leaves `SURVIVED of POINTS` in `target/crash-points/PROVIDER/WHAT` of this workspace.
///
/// # Errors
/// If that cannot be written.
pub fn tally(provider: &str, what: &str, survived: usize, points: usize) -> io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/crash-points").join(provider);
    fs::create_dir_all(&dir)?;
    let partial = dir.with_file_name(format!(".{provider}-{what}"));
    fs::write(&partial, format!("{survived} of {points}\n"))?;
    fs::rename(partial, dir.join(what))
}
