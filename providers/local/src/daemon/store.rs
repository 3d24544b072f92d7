//! The state on disk: one JSON file, replaced as a whole.
//!
//! Owns: the file and its records. Leaves to others: deciding what is in it.
//! Invariant: the file is always a complete state, the old or the new: written beside, synced, renamed. One that
//! cannot be read stops the start, because starting empty would give away addresses that are in use (law 6).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portico_provider::{ClusterUid, Owner, ServiceUid};
use serde::{Deserialize, Serialize};

use crate::api::Spec;

/// The identity of a load balancer.
pub type Key = (ClusterUid, ServiceUid);

/// All of them. Cloning it copies no record.
pub type Records = BTreeMap<Key, Arc<Record>>;

/// A load balancer, as it must survive a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The Service that it was created for.
    pub owner: Owner,
    /// The load balancer as it was last put.
    pub spec: Spec,
    /// The addresses it was given.
    pub addresses: BTreeSet<IpAddr>,
    /// Earlier ones that still serve.
    pub retained: BTreeSet<IpAddr>,
    /// When it serves: milliseconds of Unix time.
    pub active_at: u64,
}

impl Record {
    /// Cluster and UID of its owner.
    pub fn key(&self) -> Key {
        (self.owner.cluster.clone(), self.owner.service.clone())
    }

    /// Every address it holds.
    pub fn held(&self) -> BTreeSet<IpAddr> {
        self.addresses.union(&self.retained).copied().collect()
    }
}

/// A state that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// The failed operation.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file is not a state.
    #[error("{} is not a state of portico-lb: repair it, or move it away to begin with no load balancer", path.display())]
    Format {
        /// The state file that cannot be read.
        path: PathBuf,
        /// The position of the error.
        #[source]
        source: serde_json::Error,
    },
}

/// The state file, one JSON document of all records.
#[derive(Clone, Debug)]
pub struct Store {
    path: PathBuf,
}

impl Store {
    /// The file in this directory, which is made if need be.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        fs::create_dir_all(directory).map_err(|source| StoreError::Io {
            operation: "create",
            path: directory.to_owned(),
            source,
        })?;
        Ok(Self { path: directory.join("load-balancers.json") })
    }

    /// All records; none if there never was a file.
    pub fn load(&self) -> Result<Records, StoreError> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(source) => return Err(self.io("read", source)),
        };
        let records: Vec<Record> = serde_json::from_slice(&bytes)
            .map_err(|source| StoreError::Format { path: self.path.clone(), source })?;
        Ok(records.into_iter().map(|record| (record.key(), Arc::new(record))).collect())
    }

    /// Replaces all records.
    pub fn save(&self, records: &Records) -> Result<(), StoreError> {
        let records: Vec<&Record> = records.values().map(Arc::as_ref).collect();
        let bytes = serde_json::to_vec_pretty(&records)
            .map_err(|source| StoreError::Format { path: self.path.clone(), source })?;
        self.replace(&bytes).map_err(|source| self.io("write", source))
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        // The rename itself is on disk only when the directory is.
        self.path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
    }

    fn io(&self, operation: &'static str, source: io::Error) -> StoreError {
        StoreError::Io { operation, path: self.path.clone(), source }
    }
}
