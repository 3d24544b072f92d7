//! The endpoints of the measurements: a listener in a pod-like namespace that answers every connection with its identity and
//! closes it. In-process, so that what is measured is the way through the kernel and not a program. Ends with the process.

use std::{
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    thread,
};

use anyhow::Context as _;

use super::{client::Identity, namespace::Resident};

/// The port on which every endpoint listens.
pub const PORT: u16 = 8080;

/// Answers on every address of `resident`'s namespace, at [`PORT`].
pub async fn start(resident: &Resident, identity: Identity) -> anyhow::Result<()> {
    let listener = resident.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))).await?;
    let listener = listener.with_context(|| format!("listening on port {PORT}"))?;
    let Identity(identity) = identity;
    let answer = move || {
        for stream in listener.incoming() {
            // A client that is gone already is the client's business.
            let _client_gone = stream.and_then(|mut stream| stream.write_all(&[identity]));
        }
    };
    thread::Builder::new().name(format!("endpoint-{identity}")).spawn(answer).context("starting a thread")?;
    Ok(())
}
