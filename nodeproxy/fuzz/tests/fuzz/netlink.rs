//! Target `netlink`: bytes in place of what a netlink socket reads.

/// Reads bytes with every reader; returns how many values they held.
pub(crate) fn check(bytes: &[u8]) -> usize {
    let values = portico_netlink::fuzzing::read(bytes);
    assert!(values.is_ok(), "{values:?}");
    values.unwrap_or_default()
}
