//! A pod's volumes: directories in the agent's state, which containers see by bind mounts.
//!
//! Owns writing and refreshing them: configMap, secret, projected (service account tokens among them), downwardAPI, emptyDir,
//! hostPath. Leaves mounting to `enter`. Invariants: a file is replaced by renaming, so a reader sees the old or the new. A
//! hostPath that the machine does not have is created in the node's own state, never on the machine. A hostPath that it
//! has is mounted read-only (but /run, /dev, /proc and /sys).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccount, ServiceAccountTokenProjection, Volume,
    VolumeProjection,
};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::enter::Bind;

use super::fields::Fields;
use super::references::{Data, Found, Reference};

/// A volume's files by relative path.
type Files = BTreeMap<String, Vec<u8>>;

/// The volumes of one pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volumes<'a> {
    pub(crate) fields: Fields<'a>,
    /// The pod's own directory.
    pub(crate) dir: &'a Path,
    /// Stands for the machine's root where a hostPath is missing there.
    pub(crate) host_dir: &'a Path,
}

impl Volumes<'_> {
    fn pod(&self) -> &Pod {
        self.fields.pod
    }

    fn volumes(&self) -> impl Iterator<Item = &Volume> {
        self.pod().spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
    }

    /// Writes all volumes, for the first time or again.
    pub(crate) async fn write(&self, client: &Client) -> Result<()> {
        let namespace = self.pod().metadata.namespace.as_deref().unwrap_or_default();
        let found = Found::fetch(client, namespace, self.references()).await?;
        for volume in self.volumes() {
            let written = async {
                if let Some(files) = self.files(volume, &found, client).await? {
                    write_files(&self.path(&volume.name), &files)?;
                } else if volume.host_path.is_none() {
                    fs::create_dir_all(self.path(&volume.name)).context("make the directory")?;
                }
                anyhow::Ok(())
            };
            written.await.with_context(|| format!("volume {}", volume.name))?;
        }
        Ok(())
    }

    fn path(&self, volume: &str) -> PathBuf {
        self.dir.join("volumes").join(volume)
    }

    fn references(&self) -> Vec<Reference> {
        let mut wanted = Vec::new();
        for volume in self.volumes() {
            wanted.extend(volume.config_map.iter().map(|map| Reference::ConfigMap(map.name.clone())));
            wanted.extend(
                volume.secret.iter().filter_map(|secret| secret.secret_name.clone()).map(Reference::Secret),
            );
            for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
                wanted.extend(source.config_map.iter().map(|map| Reference::ConfigMap(map.name.clone())));
                wanted.extend(source.secret.iter().map(|secret| Reference::Secret(secret.name.clone())));
            }
        }
        wanted
    }

    /// The files of a volume that is made of some; none for directories.
    async fn files(&self, volume: &Volume, found: &Found, client: &Client) -> Result<Option<Files>> {
        if let Some(map) = &volume.config_map {
            let data = found.data(&Reference::ConfigMap(map.name.clone()), map.optional)?;
            return select(data, map.items.as_deref(), map.optional).map(Some);
        }
        if let Some(secret) = &volume.secret {
            let name = secret.secret_name.clone().unwrap_or_default();
            let data = found.data(&Reference::Secret(name), secret.optional)?;
            return select(data, secret.items.as_deref(), secret.optional).map(Some);
        }
        if let Some(downward) = &volume.downward_api {
            return self.downward(downward.items.as_deref()).map(Some);
        }
        if let Some(projected) = &volume.projected {
            let mut files = Files::new();
            for source in projected.sources.iter().flatten() {
                files.extend(self.projection(source, found, client).await?);
            }
            return Ok(Some(files));
        }
        if volume.empty_dir.is_some() || volume.host_path.is_some() {
            return Ok(None);
        }
        bail!("this node agent knows configMap, secret, projected, downwardAPI, emptyDir and hostPath")
    }

    async fn projection(&self, source: &VolumeProjection, found: &Found, client: &Client) -> Result<Files> {
        if let Some(map) = &source.config_map {
            let data = found.data(&Reference::ConfigMap(map.name.clone()), map.optional)?;
            return select(data, map.items.as_deref(), map.optional);
        }
        if let Some(secret) = &source.secret {
            let data = found.data(&Reference::Secret(secret.name.clone()), secret.optional)?;
            return select(data, secret.items.as_deref(), secret.optional);
        }
        if let Some(downward) = &source.downward_api {
            return self.downward(downward.items.as_deref());
        }
        if let Some(token) = &source.service_account_token {
            let text = self.token(token, client).await.context("service account token")?;
            return Ok(Files::from([(token.path.clone(), text.into_bytes())]));
        }
        bail!("projected: this node agent knows configMap, secret, downwardAPI and serviceAccountToken")
    }

    fn downward(&self, items: Option<&[DownwardAPIVolumeFile]>) -> Result<Files> {
        let mut files = Files::new();
        for item in items.unwrap_or_default() {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => self.fields.field(&field.field_path)?,
                (None, Some(resource)) => self.fields.resource(resource, None)?,
                (None, None) => bail!("downwardAPI {}: want fieldRef or resourceFieldRef", item.path),
            };
            files.insert(item.path.clone(), text.into_bytes());
        }
        Ok(files)
    }

    /// A token that is bound to the pod, so it is void once the pod is gone.
    async fn token(&self, wanted: &ServiceAccountTokenProjection, client: &Client) -> Result<String> {
        let meta = &self.pod().metadata;
        let account = self.pod().spec.as_ref().and_then(|spec| spec.service_account_name.clone());
        let account = account.unwrap_or_else(|| "default".to_owned());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: wanted.audience.clone().map(|audience| vec![audience]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: meta.name.clone(),
                    uid: meta.uid.clone(),
                }),
                expiration_seconds: wanted.expiration_seconds,
            }),
            ..TokenRequest::default()
        };
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let api = Api::<ServiceAccount>::namespaced(client.clone(), namespace);
        let answer = api.create_token_request(&account, &PostParams::default(), &request).await?;
        answer.status.and_then(|status| status.token).context("no token in the answer")
    }

    /// Mounts of one container.
    pub(crate) fn binds(&self, container: &Container) -> Result<Vec<Bind>> {
        let mounts = container.volume_mounts.iter().flatten();
        mounts
            .map(|mount| {
                let volume = self.volumes().find(|volume| volume.name == mount.name);
                let volume =
                    volume.with_context(|| format!("volumeMounts {}: no such volume", mount.name))?;
                let mut source = match &volume.host_path {
                    Some(host) => self.host_path(&host.path, host.type_.as_deref())?,
                    None => self.path(&volume.name),
                };
                if let Some(sub) = mount.sub_path.as_deref().filter(|sub| !sub.is_empty()) {
                    source = source.join(relative(sub)?);
                    if !source.exists() {
                        fs::create_dir_all(&source).with_context(|| format!("subPath {sub}"))?;
                    }
                }
                let foreign = volume.host_path.is_some() && is_machine_s(&source, self.host_dir);
                let read_only = mount.read_only == Some(true) || foreign;
                Ok(Bind { source, target: PathBuf::from(&mount.mount_path), read_only })
            })
            .collect()
    }

    fn host_path(&self, path: &str, kind: Option<&str>) -> Result<PathBuf> {
        let machine = PathBuf::from(path);
        if machine.exists() {
            return Ok(machine);
        }
        let own = self.host_dir.join(relative(path.trim_start_matches('/'))?);
        match kind {
            Some("DirectoryOrCreate" | "") | None => fs::create_dir_all(&own).context("hostPath")?,
            Some("FileOrCreate") => {
                if let Some(parent) = own.parent() {
                    fs::create_dir_all(parent).context("hostPath")?;
                }
                fs::File::options().create(true).append(true).open(&own).context("hostPath")?;
            }
            Some(_) if own.exists() => {}
            Some(kind) => bail!("hostPath {path}: no such {kind}"),
        }
        Ok(own)
    }
}

/// Files of the machine are mounted read-only; /run is the sandbox's own, and devices are writable.
fn is_machine_s(path: &Path, host_dir: &Path) -> bool {
    !["/run", "/dev", "/proc", "/sys"].iter().any(|ours| path.starts_with(ours))
        && !path.starts_with(host_dir)
}

/// Paths inside a volume stay inside it.
fn relative(path: &str) -> Result<&Path> {
    let path = Path::new(path);
    if path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        Ok(path)
    } else {
        bail!("path {}: want one inside the volume, without ..", path.display())
    }
}

fn select(data: Option<&Data>, items: Option<&[KeyToPath]>, optional: Option<bool>) -> Result<Files> {
    let (Some(data), items) = (data, items) else { return Ok(Files::new()) };
    let Some(items) = items else { return Ok(data.clone()) };
    let mut files = Files::new();
    for KeyToPath { key, mode: _, path } in items {
        match data.get(key) {
            Some(value) => drop(files.insert(path.clone(), value.clone())),
            None if optional == Some(true) => {}
            None => bail!("references non-existent key {key}"),
        }
    }
    Ok(files)
}

fn write_files(dir: &Path, files: &Files) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    for (name, content) in files {
        let path = dir.join(relative(name)?);
        if fs::read(&path).is_ok_and(|old| old == *content) {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        }
        let fresh = path.with_extension("portico-new");
        fs::write(&fresh, content).with_context(|| format!("write {}", fresh.display()))?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644)).context("permissions")?;
        fs::rename(&fresh, &path).with_context(|| format!("put {} in place", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_leaves_its_volume_is_refused() {
        assert!(relative("a/b").is_ok());
        for path in ["../a", "/a", "a/../../b"] {
            assert!(relative(path).is_err(), "{path}");
        }
    }

    #[test]
    fn files_are_replaced_and_items_choose_and_rename_keys() {
        let dir = tempfile::tempdir().expect("a directory");
        let data = Data::from([("k".to_owned(), b"1".to_vec()), ("other".to_owned(), b"2".to_vec())]);
        let items = [KeyToPath { key: "k".to_owned(), mode: None, path: "sub/name".to_owned() }];
        let files = select(Some(&data), Some(&items), None).expect("there");
        write_files(dir.path(), &files).expect("written");
        write_files(dir.path(), &Files::from([("sub/name".to_owned(), b"3".to_vec())])).expect("rewritten");
        assert_eq!(fs::read(dir.path().join("sub/name")).expect("readable"), b"3");
        assert!(!dir.path().join("other").exists());
    }
}
