//! Paths of the programs that a cluster is made of. Those of this workspace lie beside the running program
//! (`target/debug`), the others under `target/tools`; `PORTICO_TOOLS` names another folder for these.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

/// The programs, and the folder under which clusters keep their files.
#[derive(Clone, Debug)]
pub struct Tools {
    bins: PathBuf,
    others: PathBuf,
    root: PathBuf,
}

impl Tools {
    /// Finds the programs from where the running program lies: `target/<profile>/[deps/]program`.
    pub fn find() -> anyhow::Result<Self> {
        let program = env::current_exe().context("finding the running program")?;
        let mut bins = program.parent().context("the running program has no folder")?.to_path_buf();
        if bins.ends_with("deps") {
            bins.pop();
        }
        let root = bins.parent().context("the running program is not in target/<profile>")?.to_path_buf();
        let others = env::var_os("PORTICO_TOOLS").map_or_else(|| root.join("tools"), PathBuf::from);
        Ok(Self { bins, others, root })
    }

    /// Folder of cluster `name`: `target/e2e/<name>`.
    pub fn cluster_dir(&self, name: &str) -> PathBuf {
        self.root.join("e2e").join(name)
    }

    /// Folder of the benches' results: `target/bench`.
    pub fn bench_dir(&self) -> PathBuf {
        self.root.join("bench")
    }

    /// Folder of conformance results: `target/conformance`.
    pub fn conformance_dir(&self) -> PathBuf {
        self.root.join("conformance")
    }

    /// A program that only conformance runs need: ginkgo, e2e.test, agnhost, coredns. `make conformance` builds them.
    pub fn conformance_program(&self, name: &str) -> PathBuf {
        self.others.join(name)
    }

    /// The chart of this work tree.
    pub fn chart(&self) -> PathBuf {
        self.root.join("../helm/portico")
    }

    /// The multi-call binary of etcd and the Kubernetes components.
    pub fn controlplane(&self) -> PathBuf {
        self.others.join("controlplane")
    }

    /// The helm program: the one that `make test` builds, else that of the machine.
    pub fn helm(&self) -> PathBuf {
        let built = self.others.join("helm");
        let on_path =
            || env::split_paths(&env::var_os("PATH")?).map(|it| it.join("helm")).find(|it| it.is_file());
        if built.is_file() { built } else { on_path().unwrap_or(built) }
    }

    /// Python with the emulator of AWS; `None`: `scripts/emulators.sh` could not install it.
    pub fn aws_python(&self) -> Option<PathBuf> {
        let path = self.others.join("aws/bin/python");
        path.is_file().then_some(path)
    }

    /// Python with Google's clients and discovery document; `None`: `scripts/emulator-gce.sh setup` could not install them.
    pub fn gce_python(&self) -> Option<PathBuf> {
        let path = self.others.join("gce/bin/python");
        (path.is_file() && self.others.join("gce/.complete").is_file()).then_some(path)
    }

    /// The emulators' programs in this work tree.
    pub fn emulators(&self) -> PathBuf {
        self.root.join("../emulators")
    }

    /// This workspace's own program.
    pub fn portico_e2e(&self) -> PathBuf {
        self.bins.join("portico-e2e")
    }

    /// The portico-operator program.
    pub fn operator(&self) -> PathBuf {
        self.bins.join("portico-operator")
    }

    /// The node proxy.
    pub fn nodeproxy(&self) -> PathBuf {
        self.bins.join("portico-nodeproxy")
    }

    /// Kubernetes' cloud provider for AWS, which benches compare with.
    pub fn aws_controller(&self) -> PathBuf {
        self.others.join("aws-cloud-controller-manager")
    }

    /// The load balancer of provider `local`.
    pub fn lb(&self) -> PathBuf {
        self.bins.join("portico-lb")
    }

    /// Fails, with the remedy, where one of `needed` is missing.
    pub fn check(&self, needed: &[&Path]) -> anyhow::Result<()> {
        for path in needed {
            if !path.is_file() {
                bail!("{} is missing: `make setup build` builds it", path.display());
            }
        }
        Ok(())
    }
}
