//! Surroundings that this machine lacks. A trial that needs them fails, unless `PORTICO_SKIP` (names between commas) names
//! them. Then it is skipped, and leaves a line `NAME: TRIAL` in the file that `PORTICO_SKIPPED` names; `make test` counts
//! these lines.

use std::{env, fs::File, io::Write as _};

use anyhow::Context as _;
use libtest_mimic::{Completion, Failed};

use crate::{cloud::Cloud, sandbox, tools::Tools};

/// Surroundings that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Namespaces of one's own, for this reason.
    Namespaces(String),
    /// The emulator of a cloud.
    Emulator(Cloud),
}

impl Missing {
    /// The namespaces of a sandbox, where this machine allows none.
    pub fn namespaces() -> anyhow::Result<Option<Self>> {
        Ok(sandbox::refusal()?.map(Self::Namespaces))
    }

    /// The first of these clouds without an emulator.
    pub(super) fn emulator(needs: &[Cloud]) -> anyhow::Result<Option<Self>> {
        let tools = Tools::find()?;
        Ok(needs.iter().copied().find(|cloud| cloud.python(&tools).is_none()).map(Self::Emulator))
    }

    /// Its name in `PORTICO_SKIP`.
    fn name(&self) -> &'static str {
        match self {
            Self::Namespaces(_) => "namespaces",
            Self::Emulator(_) => "emulators",
        }
    }

    fn reason(&self) -> String {
        match self {
            Self::Namespaces(reason) => reason.clone(),
            Self::Emulator(cloud) => {
                format!("no emulator of {cloud}: `make emulators` installs it, from a Python package index")
            }
        }
    }

    /// The outcome of a trial that needs it.
    pub fn outcome(&self, trial: &str) -> Result<Completion, Failed> {
        let (name, reason) = (self.name(), self.reason());
        let skipped = env::var("PORTICO_SKIP").unwrap_or_default();
        if !skipped.split(',').any(|named| named.trim() == name) {
            return Err(Failed::from(format!("{reason}; PORTICO_SKIP={name} goes without")));
        }
        if let Some(list) = env::var_os("PORTICO_SKIPPED") {
            let written = File::options()
                .create(true)
                .append(true)
                .open(&list)
                .and_then(|mut file| writeln!(file, "{name}: {trial}"));
            written.with_context(|| format!("writing to {}", list.display()))?;
        }
        Ok(Completion::ignored_with(reason))
    }
}
