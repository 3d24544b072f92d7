//! All objects of one proxy in a file: its input, and the state of the kernel.
//!
//! Owns the file's shape (JSON) and answers from it. Invariant: a dump answers as the proxy did when it was
//! written. A change that had not reached the kernel by then is a difference.

use std::net::IpAddr;

use jiff::Timestamp;
use portico_proxy_core::{
    model::Model,
    snapshot::{Programmed, Snapshot},
};
use serde::{Deserialize, Serialize};

use super::{Answer, DiagnoseError, InquiryContext, Question};
use crate::dataplane::Observed;

/// Version of the file's shape. The reader refuses other versions.
const FORMAT: u32 = 2;

/// The answer to `dump`, and the file that it writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dump {
    format: u32,
    /// Time of the dump.
    pub taken: Timestamp,
    /// Addresses in the node's network namespace.
    pub local_addresses: Vec<IpAddr>,
    /// Objects of the model. The field keeps its name in the file.
    #[serde(rename = "told")]
    pub input: Snapshot,
    /// State of the kernel's tables.
    pub kernel: Option<Programmed>,
}

/// Reasons why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It is no JSON of this shape.
    #[error("it is no dump of portico-nodeproxy")]
    Unreadable(#[source] serde_json::Error),
    /// Another version wrote it.
    #[error(
        "it has format {0}, and this program reads format {FORMAT}; use the program of the version that wrote it"
    )]
    Format(u32),
}

impl DumpError {
    /// Never: the file does not change.
    pub fn retry(&self) -> bool {
        false
    }

    /// One word for a log field.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "Unreadable",
            Self::Format(_) => "Format",
        }
    }
}

impl Dump {
    /// The input of a proxy.
    pub fn of(model: &Model, local_addresses: &[IpAddr]) -> Self {
        Self {
            format: FORMAT,
            taken: Timestamp::now(),
            local_addresses: local_addresses.to_vec(),
            input: Snapshot::of(model),
            kernel: None,
        }
    }

    /// Adds the state of the kernel.
    #[must_use]
    pub fn with_kernel(self, observed: Observed) -> Self {
        let Observed { state, rebuild } = observed;
        Self { kernel: Some(Programmed::of(state, rebuild)), ..self }
    }

    /// Reads a file's text.
    pub fn parse(text: &[u8]) -> Result<Self, DumpError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_slice(text).map_err(DumpError::Unreadable)?;
        if head.format != FORMAT {
            return Err(DumpError::Format(head.format));
        }
        serde_json::from_slice(text).map_err(DumpError::Unreadable)
    }

    /// The node whose proxy wrote it.
    pub fn node(&self) -> &str {
        &self.input.node.name
    }

    /// Answers as the proxy would have.
    pub fn answer(self, question: &Question) -> Result<Answer, DiagnoseError> {
        let Self { format: _, taken: _, local_addresses, input, kernel } = self;
        let mut model = input.model();
        let observed = kernel.map(|kernel| {
            let (state, rebuild) = kernel.state();
            model.adopt(&state);
            Observed { state, rebuild }
        });
        let known = InquiryContext { model: &model, local_addresses: &local_addresses, complete: true };
        let draft = super::draft(question, known, None)?;
        match (draft.claim.is_some(), observed) {
            (false, _) => Ok(draft.answer),
            (true, Some(observed)) => Ok(draft.check(&observed)),
            (true, None) => Err(DiagnoseError::NoKernel),
        }
    }
}
