//! Frames of remote commands over WebSocket: one binary message is a channel number and bytes. Pure.
//! Source: k8s.io/streaming/pkg/httpstream/wsstream and apimachinery's remotecommand constants, 1.36.
//! Invariants: what is encoded decodes to itself; an unknown channel is an error that names it.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Subprotocols, best first. v5 can close one stream (stdin) and leave the others open.
pub(super) const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// In v5: the stream whose number follows is closed.
const CLOSE: u8 = 255;

/// Streams from the server to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Out {
    Stdout,
    Stderr,
    /// One `metav1.Status`, the last frame.
    Error,
}

/// A frame from the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum In {
    /// Bytes for stdin.
    Stdin(Vec<u8>),
    /// No more of them.
    StdinClosed,
    /// The terminal's new size.
    Resize { columns: u16, rows: u16 },
}

/// A frame for the client.
pub(super) fn encode(channel: Out, bytes: &[u8]) -> Vec<u8> {
    let number = match channel {
        Out::Stdout => 1,
        Out::Stderr => 2,
        Out::Error => 3,
    };
    let mut frame = Vec::with_capacity(bytes.len() + 1);
    frame.push(number);
    frame.extend_from_slice(bytes);
    frame
}

/// A frame from the client; none for an empty one, which some clients send first.
pub(super) fn decode(frame: &[u8]) -> Result<Option<In>> {
    let Some((channel, bytes)) = frame.split_first() else { return Ok(None) };
    match (*channel, bytes) {
        (0, []) => Ok(None),
        (0, bytes) => Ok(Some(In::Stdin(bytes.to_vec()))),
        (4, bytes) => resize(bytes).map(Some),
        (CLOSE, [0]) => Ok(Some(In::StdinClosed)),
        (CLOSE, _) => Ok(None),
        (other, _) => bail!("channel {other}: a client has only 0 (stdin), 4 (resize) and 255 (close)"),
    }
}

/// `{"Width": 80, "Height": 24}`.
fn resize(bytes: &[u8]) -> Result<In> {
    let value: Value = serde_json::from_slice(bytes).context("resize")?;
    let side = |name: &str| value.get(name).and_then(Value::as_u64).and_then(|side| u16::try_from(side).ok());
    let (columns, rows) = side("Width").zip(side("Height")).context("resize: want Width and Height")?;
    Ok(In::Resize { columns, rows })
}

/// The last frame's content: how the command ended.
pub(super) fn exit_status(code: i32) -> Value {
    if code == 0 {
        return json!({"metadata": {}, "status": "Success"});
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channels_are_the_documented_numbers() {
        assert_eq!(encode(Out::Stdout, b"x"), b"\x01x");
        assert_eq!(encode(Out::Error, b""), b"\x03");
        assert_eq!(decode(b"\0in").expect("stdin"), Some(In::Stdin(b"in".to_vec())));
        assert_eq!(decode(b"\xff\0").expect("close"), Some(In::StdinClosed));
        let size = decode(b"\x04{\"Width\":80,\"Height\":24}").expect("resize");
        assert_eq!(size, Some(In::Resize { columns: 80, rows: 24 }));
        assert!(decode(b"\x01x").expect_err("not the client's").to_string().contains("channel 1"));
    }

    #[test]
    fn an_exit_code_is_a_cause_of_the_status() {
        let status = exit_status(3);
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "3");
        assert_eq!(exit_status(0)["status"], "Success");
    }

    proptest::proptest! {
        #[test]
        fn no_frame_makes_the_reader_fail_other_than_by_an_error(frame: Vec<u8>) {
            let _decoded_or_refused = decode(&frame).is_ok();
        }
    }
}
