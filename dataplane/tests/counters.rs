//! Holds `docs/counters.md` and the enums of drop reasons and socket losses together.

use vxdp_dataplane::DropReason;
use vxdp_dataplane::worker::SocketLoss;

const DOCUMENT: &str = include_str!("../../docs/counters.md");

#[test]
fn the_document_lists_every_reason_in_order_and_no_other() {
    let drops = DOCUMENT.split("\n## ").filter(|section| section.starts_with("Drops"));
    let rows: Vec<_> = drops.flat_map(str::lines).filter(|line| line.starts_with("| `")).collect();
    let ours = |prefixed| {
        let reasons =
            DropReason::ALL.iter().filter(move |reason| reason.name().starts_with("VXDP_") == prefixed);
        reasons.map(|reason| format!("| `{}` | {} |", reason.name(), reason.description()))
    };
    let expected: Vec<_> = ours(false).chain(ours(true)).collect();
    assert_eq!(rows, expected);
}

#[test]
fn the_document_lists_every_loss_at_a_socket_in_order_and_no_other() {
    let section = DOCUMENT.split("\n## ").find(|section| section.starts_with("Losses at sockets\n"));
    let rows: Vec<_> =
        section.into_iter().flat_map(str::lines).filter(|line| line.starts_with("| `")).collect();
    let losses = SocketLoss::ALL.iter();
    let expected: Vec<_> =
        losses.map(|loss| format!("| `{}` | {} |", loss.name(), loss.description())).collect();
    assert_eq!(rows, expected);
}
