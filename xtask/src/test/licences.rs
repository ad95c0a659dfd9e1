//! The licences of everything we link, held to the list in `xtask/licences.txt`.

use super::spdx;
use crate::ebpf::toolchain;
use crate::process;
use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Fails with every dependency whose licence the list does not allow.
pub(super) fn check() -> Result<()> {
    let file = process::root().join("xtask/licences.txt");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let allowed = parse_list(&text);
    let mut cargo = process::cargo();
    // Only what is built here: crates for other systems would have to be downloaded to be judged.
    cargo.args(["metadata", "--format-version=1", "--locked", "--all-features"]);
    for platform in [process::host()?.as_str(), toolchain::TARGET] {
        cargo.args(["--filter-platform", platform]);
    }
    let metadata = process::output(&mut cargo)?;
    let metadata: Value = serde_json::from_slice(&metadata).context("cargo metadata printed no JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let foreign: Vec<_> = packages.iter().filter(|p| !p["source"].is_null()).collect();
    let refused: Vec<_> = foreign.iter().filter_map(|p| refusal(p, &allowed)).collect();
    if !refused.is_empty() {
        bail!(
            "not allowed by {}:\n  {}\nuse another crate, or add the licence to the list if this project may take it",
            file.display(),
            refused.join("\n  ")
        );
    }
    println!("{} dependencies, all under licences in xtask/licences.txt", foreign.len());
    Ok(())
}

/// The licences in the list: one per line, `#` begins a comment.
fn parse_list(text: &str) -> Vec<&str> {
    text.lines().map(|l| l.split('#').next().unwrap_or(l).trim()).filter(|l| !l.is_empty()).collect()
}

/// Why `package` is not allowed, if it is not.
fn refusal(package: &Value, allowed: &[&str]) -> Option<String> {
    let name = format!("{} {}", package["name"].as_str()?, package["version"].as_str()?);
    let Some(licence) = package["license"].as_str() else {
        return Some(format!("{name}: states no licence"));
    };
    match spdx::is_satisfied(licence, &|one| allowed.contains(&one)) {
        Ok(true) => None,
        Ok(false) => Some(format!("{name}: {licence}")),
        Err(error) => Some(format!("{name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refusal_names_crate_and_licence() {
        let allowed = parse_list("# why\nMIT # short\n\n  BSD-2-Clause\n");
        assert_eq!(allowed, ["MIT", "BSD-2-Clause"]);
        let package = |licence: Value| json!({"name": "x", "version": "1.0.0", "license": licence});
        assert_eq!(refusal(&package("LGPL-2.1 OR BSD-2-Clause".into()), &allowed), None);
        assert_eq!(refusal(&package("EUPL-1.2".into()), &allowed).unwrap(), "x 1.0.0: EUPL-1.2");
        assert_eq!(refusal(&package(Value::Null), &allowed).unwrap(), "x 1.0.0: states no licence");
        assert!(refusal(&package("MIT OR".into()), &allowed).unwrap().contains("no SPDX"));
    }
}
