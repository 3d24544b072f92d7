//! Images that `make images` has built, as OCI image layouts
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).
//!
//! Owns unpacking one and reading its configuration. Leaves running it to the node agent. Invariant: only what Portico builds is
//! read, an image of one manifest and layers without deletions; anything else is an error.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, de::DeserializeOwned};

use super::{ImageRoot, Rule};

/// The index of a layout, and every manifest in it.
#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
}

#[derive(Deserialize)]
struct Image {
    config: Config,
}

/// The part of an image's configuration that a container runtime reads.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    user: String,
    #[serde(default)]
    env: Vec<String>,
    entrypoint: Vec<String>,
    #[serde(default)]
    cmd: Vec<String>,
}

/// Unpacks every layout in `layouts` into a folder of `to`. Gives a rule for each, for images of its name.
pub fn unpack_all(layouts: &Path, to: &Path) -> anyhow::Result<Vec<Rule>> {
    let entries = fs::read_dir(layouts)
        .with_context(|| format!("{}: not there; `make images` builds the images", layouts.display()))?;
    let mut rules = Vec::new();
    for entry in entries {
        let layout = entry.with_context(|| format!("listing {}", layouts.display()))?.path();
        if layout.join("index.json").is_file() {
            rules.push(unpack(&layout, to).with_context(|| format!("the image in {}", layout.display()))?);
        }
    }
    ensure!(!rules.is_empty(), "{}: no image; `make images` builds them", layouts.display());
    Ok(rules)
}

fn unpack(layout: &Path, to: &Path) -> anyhow::Result<Rule> {
    let name = layout.file_name().context("a folder without a name")?.to_string_lossy().into_owned();
    let Index { manifests } = read(&layout.join("index.json"))?;
    let [manifest] = manifests.as_slice() else { bail!("{} manifests, and one is wanted", manifests.len()) };
    let Manifest { config, layers } = read(&manifest.blob(layout)?)?;
    let Image { config: Config { user, env, entrypoint, cmd } } = read(&config.blob(layout)?)?;
    let dir = to.join(&name);
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    for layer in &layers {
        extract(&layer.blob(layout)?, &dir)?;
    }
    let env = env.iter().filter_map(|pair| pair.split_once('='));
    let env: BTreeMap<_, _> = env.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let root = ImageRoot { dir, env, user: ids(&user)? };
    let argv = entrypoint.into_iter().chain(cmd).collect();
    Ok(Rule { image: format!("*{name}*"), argv, root: Some(root) })
}

fn extract(layer: &Path, dir: &Path) -> anyhow::Result<()> {
    let tar = |flag: &str| {
        let mut command = Command::new("tar");
        command.arg(flag).arg("--file").arg(layer).arg("--directory").arg(dir);
        command
    };
    let listed = tar("--list").output().context("starting tar")?;
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    ensure!(listed.status.success(), "tar: {}", String::from_utf8_lossy(&listed.stderr).trim());
    let deletes = |name: &&str| name.rsplit('/').next().is_some_and(|last| last.starts_with(".wh."));
    if let Some(name) = names.lines().find(deletes) {
        bail!("layer {} deletes files of others ({name}), which is not supported", layer.display());
    }
    let done =
        tar("--extract").args(["--same-permissions", "--no-same-owner"]).output().context("starting tar")?;
    ensure!(done.status.success(), "tar: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

/// `user`, or `user:group`, as numbers. An image without users' names has numbers only.
fn ids(user: &str) -> anyhow::Result<(u32, u32)> {
    let (user, group) = user.split_once(':').unwrap_or((user, "0"));
    let number = |text: &str| match text {
        "" => Ok(0),
        text => text.parse().with_context(|| format!("user {text:?}: not a number")),
    };
    Ok((number(user)?, number(group)?))
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    serde_json::from_reader(file).with_context(|| format!("reading {}", path.display()))
}

impl Descriptor {
    fn blob(&self, layout: &Path) -> anyhow::Result<PathBuf> {
        let (algorithm, hash) = self.digest.split_once(':').context("a digest without an algorithm")?;
        Ok(layout.join("blobs").join(algorithm).join(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layout with one layer that holds `files`.
    fn mk_layout(dir: &Path, config: &str, files: &[&str]) -> anyhow::Result<PathBuf> {
        let (layout, content) = (dir.join("images/tool"), dir.join("content"));
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        for file in files {
            let path = content.join(file);
            fs::create_dir_all(path.parent().context("a parent")?)?;
            fs::write(path, file)?;
        }
        let packed = Command::new("tar")
            .args(["--create", "--gzip", "--file"])
            .arg(blobs.join("layer"))
            .arg("--directory")
            .arg(&content)
            .arg(".")
            .status()?;
        ensure!(packed.success(), "tar");
        fs::write(blobs.join("config"), config)?;
        let manifest = r#"{"config": {"digest": "sha256:config"}, "layers": [{"digest": "sha256:layer"}]}"#;
        fs::write(blobs.join("manifest"), manifest)?;
        fs::write(layout.join("index.json"), r#"{"manifests": [{"digest": "sha256:manifest"}]}"#)?;
        Ok(dir.join("images"))
    }

    const CONFIG: &str =
        r#"{"config": {"User": "65532:65532", "Env": ["PATH=/usr/local/bin"], "Entrypoint": ["tool"]}}"#;

    #[test]
    fn an_image_is_its_files_its_program_its_environment_and_its_user() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let layouts = mk_layout(dir.path(), CONFIG, &["usr/local/bin/tool"])?;
        let rules = unpack_all(&layouts, &dir.path().join("roots"))?;
        let [Rule { image, argv, root: Some(ImageRoot { dir: files, env, user }) }] = rules.as_slice() else {
            bail!("{rules:?}")
        };
        assert_eq!((image.as_str(), argv.as_slice()), ("*tool*", ["tool".to_owned()].as_slice()));
        assert_eq!((env["PATH"].as_str(), *user), ("/usr/local/bin", (65532, 65532)));
        assert_eq!(fs::read_to_string(files.join("usr/local/bin/tool"))?, "usr/local/bin/tool");
        Ok(())
    }

    #[test]
    fn what_is_not_an_image_of_ours_is_refused_with_the_reason() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let refused = |layouts: &Path| {
            unpack_all(layouts, &dir.path().join("roots")).map_err(|error| format!("{error:#}"))
        };
        let missing = refused(&dir.path().join("images")).expect_err("no folder");
        assert!(missing.contains("make images"), "{missing}");
        let layouts = mk_layout(dir.path(), CONFIG, &["usr/.wh.lib"])?;
        let deletes = refused(&layouts).expect_err("a deletion");
        assert!(deletes.contains("usr/.wh.lib"), "{deletes}");
        let named = CONFIG.replace("65532:65532", "nobody");
        fs::write(layouts.join("tool/blobs/sha256/config"), named)?;
        fs::remove_file(dir.path().join("content/usr/.wh.lib"))?;
        let layouts = mk_layout(dir.path(), &CONFIG.replace("65532:65532", "nobody"), &[])?;
        let user = refused(&layouts).expect_err("a name");
        assert!(user.contains("nobody"), "{user}");
        Ok(())
    }
}
