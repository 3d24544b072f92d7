//! The root file system of a container: the machine's or an image's, with all writes going to memory.
//!
//! Owns the mount namespace: an overlay over that `/` whose upper layer is a tmpfs, fresh /run, /tmp and /dev/shm, the
//! machine's other file systems read-only, then the volumes by bind mounts. Leaves to the caller: the list of volumes.
//! Invariants: nothing is ever created on the machine's own file system; mount points are made in the overlay. The mount
//! namespace's end removes all of it. Works in a user namespace too (Linux 5.11, `userxattr`).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};
use serde::{Deserialize, Serialize};

/// Mount point of the machine's root while the container's is being built.
const OLD_ROOT: &str = "/.machine";

/// File systems that a container gets fresh, so the machine's are not bound.
const FRESH: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];

/// Whether what lies at `path` on the machine is hidden in a container by a file system of the container's own.
pub fn is_hidden(path: &Path) -> bool {
    FRESH.iter().any(|fresh| path.starts_with(fresh))
}

/// A root of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// An empty directory; a tmpfs is mounted on it, in the container's mount namespace only.
    pub scratch: PathBuf,
    /// The files of an image, shown in place of the machine's.
    pub image: Option<PathBuf>,
    /// /sys and /proc/sys writable.
    pub privileged: bool,
}

/// One file or directory shown somewhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Absolute, as seen from outside.
    pub source: PathBuf,
    /// Absolute, as seen from inside; made if it is not there and the root is our own.
    pub target: PathBuf,
    /// Whether the root is mounted read-only.
    pub read_only: bool,
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, read_only) = text.strip_suffix(":ro").map_or((text, false), |rest| (rest, true));
        match rest.split_once(':') {
            Some((source, target)) if source.starts_with('/') && target.starts_with('/') => {
                Ok(Self { source: source.into(), target: target.into(), read_only })
            }
            _ => Err(format!("{text:?}: want SRC:DST or SRC:DST:ro, both absolute")),
        }
    }
}

impl Root {
    /// Makes the mount namespace and its root, and moves into it. `/proc` is still the machine's.
    pub(super) fn build(&self, binds: &[Bind]) -> Result<()> {
        private_mounts()?;
        let root = self.overlay()?;
        self.kernel_file_systems(&root)?;
        if self.image.is_none() {
            machine_file_systems(&root)?;
        }
        let old = root.join(OLD_ROOT.trim_start_matches('/'));
        fs::create_dir(&old).context("place for the old root")?;
        pivot_root(&root, &old).context("pivot_root")?;
        chdir("/").context("chdir /")?;
        for bind in binds {
            bind.mount_from(Path::new(OLD_ROOT))?;
        }
        umount2(OLD_ROOT, MntFlags::MNT_DETACH).context("leave the old root")?;
        fs::remove_dir(OLD_ROOT).context("remove the old root's mount point")
    }

    /// One overlay over an image's files, or over all of the machine's root; where a user namespace forbids that, one for
    /// each of its directories.
    fn overlay(&self) -> Result<PathBuf> {
        plain("tmpfs", &self.scratch, "tmpfs", MsFlags::empty(), "mode=755")?;
        let root = self.scratch.join("root");
        fs::create_dir(&root).with_context(|| format!("make {}", root.display()))?;
        if let Some(image) = &self.image {
            self.layer(image, &root).with_context(|| format!("the image in {}", image.display()))?;
            for name in FRESH {
                let point = root.join(name.trim_start_matches('/'));
                fs::create_dir_all(&point).with_context(|| format!("make {}", point.display()))?;
            }
            return Ok(root);
        }
        if let Err(error) = self.layer(Path::new("/"), &root) {
            self.layers(&root).with_context(|| format!("no overlay of / either ({error:#})"))?;
        }
        Ok(root)
    }

    /// Shows `lower` at `target`, with writes going to memory.
    fn layer(&self, lower: &Path, target: &Path) -> Result<()> {
        let name = lower.file_name().unwrap_or("all".as_ref());
        let [upper, work] = ["upper", "work"].map(|kind| self.scratch.join(kind).join(name));
        for dir in [&upper, &work] {
            fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        plain("overlay", target, "overlay", MsFlags::empty(), &options).or_else(|_| {
            plain("overlay", target, "overlay", MsFlags::empty(), &format!("{options},userxattr"))
        })
    }

    /// The kernel makes no overlay, in a user namespace, of a directory with mounts below it that came from outside
    /// (`clone_private_mount`); `/` always has some. Those directories are shown read-only.
    fn layers(&self, root: &Path) -> Result<()> {
        plain("tmpfs", root, "tmpfs", MsFlags::empty(), "mode=755")?;
        for entry in fs::read_dir("/").context("list /")? {
            let entry = entry.context("list /")?;
            let (source, kind) = (entry.path(), entry.file_type().context("list /")?);
            let target = root.join(entry.file_name());
            if kind.is_symlink() {
                symlink(fs::read_link(&source).context("read a link")?, &target).context("make a link")?;
            } else if kind.is_dir() {
                fs::create_dir(&target).with_context(|| format!("make {}", target.display()))?;
                let fresh = FRESH.iter().any(|fresh| source == Path::new(fresh));
                if !fresh && self.layer(&source, &target).is_err() {
                    show_read_only(&source, &target)?;
                }
            }
        }
        Ok(())
    }

    fn kernel_file_systems(&self, root: &Path) -> Result<()> {
        let inside = |path: &str| root.join(path);
        bind(Path::new("/proc"), &inside("proc"), true)?;
        devices(&inside("dev"))?;
        plain("tmpfs", &inside("run"), "tmpfs", MsFlags::empty(), "mode=755")?;
        plain("tmpfs", &inside("tmp"), "tmpfs", MsFlags::empty(), "mode=1777")?;
        let sys = inside("sys");
        let access = if self.privileged { MsFlags::empty() } else { MsFlags::MS_RDONLY };
        // Its own sysfs shows its own network devices; a user namespace may not be allowed one.
        plain("sysfs", &sys, "sysfs", access, "").or_else(|_| bind(Path::new("/sys"), &sys, true))
    }

    /// The process list of its own process-id namespace; sysctls read-only, unless privileged.
    pub(super) fn mount_proc(&self) -> Result<()> {
        plain("proc", Path::new("/proc"), "proc", MsFlags::empty(), "")?;
        if !self.privileged {
            let sysctls = Path::new("/proc/sys");
            bind(sysctls, sysctls, false)?;
            make_read_only(sysctls)?;
        }
        Ok(())
    }
}

/// A /dev of its own, since the machine's may not be written to, with the devices that every container has.
fn devices(dev: &Path) -> Result<()> {
    plain("tmpfs", dev, "tmpfs", MsFlags::empty(), "mode=755")?;
    for name in ["null", "zero", "full", "random", "urandom", "tty", "net/tun"] {
        let (source, target) = (Path::new("/dev").join(name), dev.join(name));
        if source.exists() {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).context("make /dev")?;
            }
            fs::File::create(&target).with_context(|| format!("make /dev/{name}"))?;
            bind(&source, &target, false)?;
        }
    }
    fs::create_dir(dev.join("shm")).context("make /dev/shm")?;
    plain("tmpfs", &dev.join("shm"), "tmpfs", MsFlags::empty(), "mode=1777")?;
    if Path::new("/dev/pts").is_dir() {
        fs::create_dir(dev.join("pts")).context("make /dev/pts")?;
        bind(Path::new("/dev/pts"), &dev.join("pts"), true)?;
        symlink("pts/ptmx", dev.join("ptmx")).context("make /dev/ptmx")?;
    }
    for (name, target) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        symlink(format!("/proc/self/fd{target}"), dev.join(name))
            .with_context(|| format!("make /dev/{name}"))?;
    }
    Ok(())
}

impl Bind {
    fn mount_from(&self, old_root: &Path) -> Result<()> {
        let Self { source, target, read_only } = self;
        let source = old_root.join(source.strip_prefix("/").unwrap_or(source));
        let what = || format!("show {} at {}", self.source.display(), target.display());
        if target.is_symlink() && !target.exists() {
            fs::remove_file(target).with_context(what)?; // dangling, as /etc/resolv.conf is without systemd's /run
        }
        if source.is_dir() {
            fs::create_dir_all(target).with_context(what)?;
        } else if !target.exists() {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).with_context(what)?;
            }
            fs::File::create(target).with_context(what)?;
        }
        bind(&source, target, true).with_context(what)?;
        if *read_only { make_read_only(target) } else { Ok(()) }
    }
}

/// A mount namespace whose only change is these binds; their targets must exist.
pub(super) fn bind_only(binds: &[Bind]) -> Result<()> {
    private_mounts()?;
    for Bind { source, target, read_only } in binds {
        if !target.exists() {
            bail!(
                "--bind: {} is not there, and making it would change the machine's file system",
                target.display()
            );
        }
        bind(source, target, true)?;
        if *read_only {
            make_read_only(target)?;
        }
    }
    Ok(())
}

fn private_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")
}

/// Mounts below the machine's root (a separate /home, a work directory) are not part of the overlay's lower layer.
fn machine_file_systems(root: &Path) -> Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    for point in top_mounts(&table) {
        let target = root.join(point.trim_start_matches('/'));
        if target.exists() {
            show_read_only(Path::new(&point), &target)?;
        }
    }
    Ok(())
}

/// Rather absent than writable.
fn show_read_only(source: &Path, target: &Path) -> Result<()> {
    if bind(source, target, true).is_ok() && make_read_only(target).is_err() {
        umount2(target, MntFlags::MNT_DETACH).with_context(|| format!("hide {}", source.display()))?;
    }
    Ok(())
}

/// Mount points that are not below another one and not of the [`FRESH`] kind. `table`: /proc/self/mountinfo, see proc(5).
fn top_mounts(table: &str) -> Vec<String> {
    let below = |path: &str, top: &str| {
        path == top || path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'))
    };
    let mut points: Vec<String> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| point.replace("\\040", " "))
        .filter(|point| point != "/" && !FRESH.iter().any(|fresh| below(point, fresh)))
        .collect();
    points.sort();
    points.dedup_by(|later, earlier| below(later, earlier));
    points
}

fn plain(source: &str, target: &Path, kind: &str, flags: MsFlags, options: &str) -> Result<()> {
    mount(Some(source), target, Some(kind), flags, Some(options))
        .with_context(|| format!("mount {kind} on {} ({options})", target.display()))
}

fn bind(source: &Path, target: &Path, recursive: bool) -> Result<()> {
    let none: Option<&str> = None;
    let flags = if recursive { MsFlags::MS_BIND | MsFlags::MS_REC } else { MsFlags::MS_BIND };
    mount(Some(source), target, none, flags, none)
        .with_context(|| format!("bind {} on {}", source.display(), target.display()))
}

fn make_read_only(target: &Path) -> Result<()> {
    let none: Option<&str> = None;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, target, none, flags, none)
        // In a user namespace the flags that the mount came with are locked and must be repeated.
        .or_else(|_| mount(none, target, none, flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV, none))
        .or_else(|_| {
            mount(
                none,
                target,
                none,
                flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                none,
            )
        })
        .with_context(|| format!("make {} read-only", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_is_two_absolute_paths_and_maybe_ro() {
        let bind: Bind = "/a:/b:ro".parse().expect("parses");
        assert_eq!(bind, Bind { source: "/a".into(), target: "/b".into(), read_only: true });
        assert!("a:/b".parse::<Bind>().expect_err("relative").contains("absolute"));
        assert!("/a".parse::<Bind>().is_err());
    }

    #[test]
    fn of_nested_mounts_only_the_outer_is_bound_and_kernel_ones_never() {
        let line = |point: &str| format!("36 35 98:0 / {point} rw,noatime - ext4 /dev/root rw\n");
        let table: String = ["/", "/proc", "/home", "/home/a b", "/homework", "/dev/pts", "/home/x"]
            .iter()
            .map(|p| line(p))
            .collect();
        assert_eq!(top_mounts(&table), ["/home", "/homework"]);
    }
}
