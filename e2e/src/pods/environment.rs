//! A container's environment and argument vector. Pure: all that it refers to has been fetched.
//!
//! Order, later wins: PATH and HOME, the image's own, what the backend wants to know, Services, `envFrom`, `env` (each may use `$(NAME)` of those
//! before), as the kubelet's makeEnvironmentVariables does. Invariant: a reference that is neither optional nor there is an error.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, EnvVarSource};

use crate::backend::{PORTS_VARIABLE, Port, Transport};

use super::expansion::expand;
use super::fields::Fields;
use super::references::{Found, Reference};

/// PATH of the programs that stand for images.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names and values.
pub(crate) type Variables = BTreeMap<String, String>;

/// The whole environment. `image`: the image's variables, `links`: the Services'.
pub(crate) fn environment(
    container: &Container,
    fields: Fields<'_>,
    image: Variables,
    links: &Variables,
    found: &Found,
    hostname: &str,
) -> Result<Variables> {
    let mut variables = base(container, fields, hostname)?;
    variables.extend(image);
    variables.extend(links.clone());
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let mut sources = Vec::new();
        sources.extend(
            from.config_map_ref
                .iter()
                .map(|source| (Reference::ConfigMap(source.name.clone()), source.optional)),
        );
        sources.extend(
            from.secret_ref.iter().map(|source| (Reference::Secret(source.name.clone()), source.optional)),
        );
        for (reference, optional) in sources {
            for (key, value) in found.data(&reference, optional)?.into_iter().flatten() {
                variables.insert(format!("{prefix}{key}"), String::from_utf8_lossy(value).into_owned());
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => value_from(source, container, fields, found)
                .with_context(|| format!("env {}", variable.name))?,
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &variables)),
        };
        if let Some(value) = value {
            variables.insert(variable.name.clone(), value);
        }
    }
    Ok(variables)
}

fn base(container: &Container, fields: Fields<'_>, hostname: &str) -> Result<Variables> {
    let pairs = [
        ("PATH", PATH.to_owned()),
        ("HOME", "/root".to_owned()),
        ("HOSTNAME", hostname.to_owned()),
        ("PORTICO_POD", fields.field("metadata.name")?),
        ("PORTICO_NAMESPACE", fields.field("metadata.namespace")?),
        ("PORTICO_NODE", fields.field("spec.nodeName")?),
        ("PORTICO_POD_IP", fields.field("status.podIP")?),
    ];
    let mut variables: Variables = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let ports = declared_ports(container);
    if !ports.is_empty() {
        variables.insert(PORTS_VARIABLE.to_owned(), ports);
    }
    Ok(variables)
}

/// The containerPorts as the backend reads them.
fn declared_ports(container: &Container) -> String {
    let ports = container.ports.iter().flatten().filter_map(|port| {
        let transport = match port.protocol.as_deref() {
            None | Some("TCP") => Transport::Tcp,
            Some("UDP") => Transport::Udp,
            Some(_) => return None,
        };
        Some(Port { number: u16::try_from(port.container_port).ok()?, transport }.to_string())
    });
    ports.collect::<Vec<_>>().join(",")
}

fn value_from(
    source: &EnvVarSource,
    container: &Container,
    fields: Fields<'_>,
    found: &Found,
) -> Result<Option<String>> {
    let text = |value: Option<&Vec<u8>>| value.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let EnvVarSource { config_map_key_ref, field_ref, file_key_ref: _, resource_field_ref, secret_key_ref } =
        source;
    if let Some(selector) = field_ref {
        return fields.field(&selector.field_path).map(Some);
    }
    if let Some(selector) = resource_field_ref {
        return fields.resource(selector, Some(container)).map(Some);
    }
    if let Some(key) = config_map_key_ref {
        return Ok(text(found.key(&Reference::ConfigMap(key.name.clone()), &key.key, key.optional)?));
    }
    if let Some(key) = secret_key_ref {
        return Ok(text(found.key(&Reference::Secret(key.name.clone()), &key.key, key.optional)?));
    }
    bail!("valueFrom: this node agent knows fieldRef, resourceFieldRef, configMapKeyRef and secretKeyRef")
}

/// The command line: the container's `command` in place of the image's program, its `args` after either.
pub(crate) fn argv(container: &Container, image: &[String], variables: &Variables) -> Vec<String> {
    let expanded =
        |words: &Vec<String>| -> Vec<String> { words.iter().map(|word| expand(word, variables)).collect() };
    let mut argv = match container.command.as_ref().filter(|command| !command.is_empty()) {
        Some(command) => expanded(command),
        None => image.to_vec(),
    };
    argv.extend(container.args.as_ref().map(expanded).unwrap_or_default());
    argv
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn mk_container(value: serde_json::Value) -> Container {
        serde_json::from_value(value).expect("a container")
    }

    fn mk_found() -> Found {
        let data = BTreeMap::from([("key".to_owned(), b"value".to_vec())]);
        Found(BTreeMap::from([(Reference::ConfigMap("m".to_owned()), Some(data))]))
    }

    fn build(container: &Container) -> Result<Variables> {
        let pod = Pod::default();
        let fields = Fields { pod: &pod, pod_ips: &[], host_ips: &[] };
        let links = Variables::from([("A_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned())]);
        let image = Variables::from([("PATH".to_owned(), "/usr/local/bin".to_owned())]);
        environment(container, fields, image, &links, &mk_found(), "host")
    }

    #[test]
    fn later_sources_win_and_values_use_earlier_ones() {
        let variables = build(&mk_container(json!({
            "name": "c",
            "envFrom": [{"prefix": "M_", "configMapRef": {"name": "m"}}],
            "env": [{"name": "X", "value": "$(M_key)@$(A_SERVICE_HOST)"}, {"name": "A_SERVICE_HOST", "value": "mine"}],
            "ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 80}],
        })))
        .expect("complete");
        assert_eq!(variables["X"], "value@10.0.0.1");
        assert_eq!(variables["A_SERVICE_HOST"], "mine");
        assert_eq!(variables[PORTS_VARIABLE], "53/udp,80/tcp");
    }

    #[test]
    fn a_missing_key_is_an_error_that_names_it_unless_it_is_optional() {
        let env = |optional: bool| {
            let key = json!({"name": "m", "key": "nope", "optional": optional});
            mk_container(json!({"name": "c", "env": [{"name": "X", "valueFrom": {"configMapKeyRef": key}}]}))
        };
        let error = format!("{:#}", build(&env(false)).expect_err("missing"));
        assert!(error.contains("nope") && error.contains("env X"), "{error}");
        assert!(!build(&env(true)).expect("optional").contains_key("X"));
    }

    #[test]
    fn command_replaces_the_image_s_program_and_args_follow_either() {
        let image = ["backend".to_owned()];
        let variables = Variables::from([("P".to_owned(), "80".to_owned())]);
        let args = mk_container(json!({"name": "c", "args": ["--port=$(P)"]}));
        assert_eq!(argv(&args, &image, &variables), ["backend", "--port=80"]);
        let command = mk_container(json!({"name": "c", "command": ["sh"], "args": ["-c"]}));
        assert_eq!(argv(&command, &image, &variables), ["sh", "-c"]);
    }
}
