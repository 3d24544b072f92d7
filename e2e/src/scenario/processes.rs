//! Finding a process of a cluster: it is known by its program and its network namespace, so that what is signalled is the
//! program itself and not what starts it.

use std::{fs, os::linux::fs::MetadataExt as _, path::Path};

use anyhow::{Context as _, bail};
use nix::unistd::Pid;

/// The processes that run `program` in the network namespace `netns`.
pub fn processes(program: &str, netns: &str) -> anyhow::Result<Vec<Pid>> {
    let path = Path::new("/run/netns").join(netns);
    let inode = fs::metadata(&path).with_context(|| format!("looking at {}", path.display()))?.st_ino();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let is_there = fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|ns| ns.st_ino() == inode);
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let name = command.split(|&byte| byte == 0).next().unwrap_or_default();
        if is_there && Path::new(&*String::from_utf8_lossy(name)).ends_with(program) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// The one process that runs `program` there.
pub fn process(program: &str, netns: &str) -> anyhow::Result<Pid> {
    match processes(program, netns)?.as_slice() {
        &[pid] => Ok(pid),
        all => bail!("{} processes of {program} in {netns}, expected one", all.len()),
    }
}
