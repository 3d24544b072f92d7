//! The options of a cluster.

use std::path::PathBuf;

use crate::{fabric::Families, portico::parts::Parts};

/// Nodes, families and parts of a cluster.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many nodes, from 0 to 254.
    pub nodes: u8,
    /// Address families of pods and Services.
    pub families: Families,
    /// Which parts of Portico are installed, and how.
    pub portico: Parts,
    /// Whether everything is prepared for these parts, and nothing is installed.
    pub bare: bool,
    /// Folder of Portico's images, as `make images` leaves it; none: Portico's pods run the programs of this build.
    pub images: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 2, families: Families::V4, portico: Parts::default(), bare: false, images: None }
    }
}
