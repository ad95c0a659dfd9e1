//! Holds `docs/counters.md` and the list of verdicts together.

use std::fs;
use std::path::Path;

use vxdp_ebpf::Verdict;

#[test]
fn the_documentation_lists_every_verdict_with_its_meaning() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/counters.md");
    let text = fs::read_to_string(file).unwrap();
    let section =
        text.split("\n## ").find(|section| section.starts_with("XDP verdicts\n")).expect("the section");
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<_> = Verdict::ALL
        .iter()
        .map(|verdict| format!("| `{}` | {} |", verdict.name(), verdict.meaning()))
        .collect();
    assert_eq!(rows, expected);
}
