//! The clouds that have an emulator here, and how tests distinguish them.

use std::{fmt, path::PathBuf};

use crate::tools::Tools;

/// A cloud with an emulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cloud {
    /// Network Load Balancers of AWS.
    Aws,
    /// Passthrough load balancers of Google Cloud.
    Gce,
}

impl Cloud {
    /// All of them.
    pub const BOTH: [Self; 2] = [Self::Aws, Self::Gce];

    /// `aws` or `gce`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Gce => "gce",
        }
    }

    /// The class of its Services.
    pub fn class(self) -> &'static str {
        match self {
            Self::Aws => "portico.dev/aws-nlb",
            Self::Gce => "portico.dev/gce",
        }
    }

    /// The Python of its emulator, if that is installed.
    pub fn python(self, tools: &Tools) -> Option<PathBuf> {
        match self {
            Self::Aws => tools.aws_python(),
            Self::Gce => tools.gce_python(),
        }
    }
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
