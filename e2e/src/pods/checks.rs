//! One check of a container: TCP, HTTP or a command inside it; probes and lifecycle hooks are made of these.
//!
//! Owns the I/O; `thresholds.rs` owns what follows. Left out: gRPC probes and HTTPS (both fail, saying so).
//! Invariant: a check ends within its timeout, and its failure is a sentence for an Event.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::process::Process;

/// Subject of a check.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) ip: IpAddr,
    pub(crate) container: Container,
    pub(crate) process: Process,
}

/// Action of a check.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    Http(HTTPGetAction),
    Tcp { host: Option<String>, port: IntOrString },
    Exec(ExecAction),
    Sleep(Duration),
    Unknown(&'static str),
}

impl Check {
    pub(crate) fn of_probe(probe: &Probe) -> Self {
        match (&probe.http_get, &probe.tcp_socket, &probe.exec) {
            (Some(http), _, _) => Self::Http(http.clone()),
            (_, Some(tcp), _) => Self::Tcp { host: tcp.host.clone(), port: tcp.port.clone() },
            (_, _, Some(exec)) => Self::Exec(exec.clone()),
            _ => Self::Unknown("this node agent has no gRPC probes; use httpGet, tcpSocket or exec"),
        }
    }

    pub(crate) fn of_hook(hook: &LifecycleHandler) -> Self {
        match (&hook.http_get, &hook.exec, &hook.sleep, &hook.tcp_socket) {
            (Some(http), ..) => Self::Http(http.clone()),
            (_, Some(exec), ..) => Self::Exec(exec.clone()),
            (_, _, Some(sleep), _) => Self::Sleep(Duration::from_secs(sleep.seconds.try_into().unwrap_or(0))),
            (.., Some(tcp)) => Self::Tcp { host: tcp.host.clone(), port: tcp.port.clone() },
            _ => Self::Unknown("a hook that does nothing"),
        }
    }

    /// Runs it once.
    pub(crate) async fn run(&self, subject: &Subject, limit: Duration) -> Result<(), String> {
        let checked = async {
            match self {
                Self::Http(action) => http(action, subject).await,
                Self::Tcp { host, port } => {
                    let address = address(subject, host.as_deref(), port)?;
                    TcpStream::connect(address).await.map(drop).map_err(|error| format!("{address}: {error}"))
                }
                Self::Exec(action) => exec(action, subject).await,
                Self::Sleep(time) => {
                    tokio::time::sleep(*time).await;
                    Ok(())
                }
                Self::Unknown(why) => Err((*why).to_owned()),
            }
        };
        match tokio::time::timeout(limit, checked).await {
            Ok(result) => result,
            Err(_elapsed) => Err(format!("no answer within {limit:?}")),
        }
    }
}

fn address(subject: &Subject, host: Option<&str>, port: &IntOrString) -> Result<SocketAddr, String> {
    let ip = match host.filter(|host| !host.is_empty()) {
        Some(host) => host.parse().map_err(|_not_an_ip| format!("host {host:?}: want an IP address"))?,
        None => subject.ip,
    };
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = subject.container.ports.iter().flatten();
            let named = ports
                .filter(|port| port.name.as_deref() == Some(name))
                .map(|port| port.container_port)
                .next();
            named.or_else(|| name.parse().ok())
        }
    };
    let number = number.and_then(|number| u16::try_from(number).ok());
    number
        .map(|number| SocketAddr::new(ip, number))
        .ok_or_else(|| format!("port {port:?}: the container has none such"))
}

async fn http(action: &HTTPGetAction, subject: &Subject) -> Result<(), String> {
    if action.scheme.as_deref() == Some("HTTPS") {
        return Err("this node agent has no HTTPS probes; use HTTP or tcpSocket".to_owned());
    }
    let address = address(subject, action.host.as_deref(), &action.port)?;
    let path = action.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let client = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent("kube-probe/1.36")
        .build()
        .map_err(|error| error.to_string())?;
    let mut request = client.get(format!("http://{address}{slash}{path}"));
    for header in action.http_headers.iter().flatten() {
        request = request.header(&header.name, &header.value);
    }
    let response = request.send().await.map_err(|error| format!("{address}: {error}"))?;
    let code = response.status().as_u16();
    if (200..400).contains(&code) {
        Ok(())
    } else {
        Err(format!("HTTP probe failed with statuscode: {code}"))
    }
}

async fn exec(action: &ExecAction, subject: &Subject) -> Result<(), String> {
    let argv = action.command.clone().unwrap_or_default();
    let mut command = subject.process.command(&argv, None).ok_or("the container has no process")?;
    let output = command.output().await.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("command {argv:?} ended with {}: {said}", output.status))
}
