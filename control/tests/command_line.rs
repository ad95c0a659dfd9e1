//! The `vxdp` program from outside: exit codes, what goes to which stream, and what it generates.

use std::process::{Command, Output};

fn vxdp(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vxdp"));
    command.args(words).env_remove("VXDP_CONFIG").env_remove("VXDP_SOCKET");
    command.output().expect("vxdp runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("UTF-8")
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let file = file("");
    let wrong: &[&[&str]] = &[
        &[],
        &["fly"],
        &["run"],
        &["run", "--config", path(&file), "--mode", "warp"],
        &["fdb", "add", "03:42:0a:00:00:02", "--vni", "42", "--vtep", "192.0.2.1"],
        &["fdb", "add", "02:42:0a:00:00:02", "--vni", "16777216", "--vtep", "192.0.2.1"],
        &["fdb", "del", "02:42:0a:00:00:02"],
        &["status", "--socket", "/a", "--config", "/b"],
        &["completions", "latin"],
    ];
    for words in wrong {
        let output = vxdp(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{words:?}");
    }
}

#[test]
fn a_bad_configuration_is_exit_code_2_and_a_line_for_each_problem_whatever_the_command() {
    let file = file("[underlay]\ndevice = \"eth0\"\nlocal = \"here\"\n\n[[overlay]]\nvni = 16777216\n");
    let commands: &[&[&str]] =
        &[&["run"], &["down"], &["check"], &["status"], &["fdb", "show"], &["mode", "kernel"]];
    for command in commands {
        let output = vxdp(&[command, &["--config", path(&file)][..]].concat());
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        let place = path(&file);
        let expected = format!(
            "{place}:3: underlay.local: `here` is not an address; expected one as in \"10.0.0.3\"\n\
             {place}:6: overlay[0].vni: 16777216 is not a VNI; expected 0 to 16777215 (24 bits)\n"
        );
        assert_eq!(text(&output.stderr), expected, "{command:?}");
    }
}

#[test]
fn the_environment_names_the_configuration_when_the_command_line_does_not() {
    let file = file("nonsense");
    let output =
        Command::new(env!("CARGO_BIN_EXE_vxdp")).arg("check").env("VXDP_CONFIG", file.path()).output();
    let output = output.expect("vxdp runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with(&format!("{}:1:", path(&file))), "{output:?}");
}

#[test]
fn check_shows_its_problems_as_json_too() {
    let file = file("underlay = 1");
    let output = vxdp(&["check", "--json", "--config", path(&file)]);
    assert_eq!(output.status.code(), Some(2));
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(verdict["ok"], false);
    let at = |key: &str| {
        let problems = verdict["problems"].as_array().expect("a list");
        problems
            .iter()
            .find(|problem| problem["key"] == key)
            .map(|problem| problem["position"]["line"].clone())
    };
    assert_eq!(at("underlay"), Some(1.into()));
    assert_eq!(at("overlay"), Some(serde_json::Value::Null));
}

#[test]
fn a_configuration_that_cannot_be_read_is_exit_code_2() {
    let output = vxdp(&["run", "--config", "/nonexistent/host1.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("/nonexistent/host1.toml: cannot read"), "{output:?}");
}

#[test]
fn a_daemon_that_is_not_there_is_exit_code_1() {
    let output = vxdp(&["status", "--socket", "/nonexistent/vxdp.sock"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent/vxdp.sock"), "{output:?}");
}

#[test]
fn a_live_view_without_a_terminal_points_to_what_is_no_live_view() {
    for words in [&["top"][..], &["top", "--once"], &["top", "--json", "--interval", "0.5"]] {
        let output = vxdp(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(text(&output.stderr).contains("vxdp status --json"), "{output:?}");
    }
    assert_eq!(vxdp(&["top", "--interval", "0"]).status.code(), Some(2));
}

#[test]
fn completions_are_generated_for_each_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let output = vxdp(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(text(&output.stdout).contains("log-format"), "{shell}");
    }
}

#[test]
fn the_manual_page_is_generated() {
    let output = vxdp(&["man"]);
    assert_eq!(output.status.code(), Some(0));
    let page = text(&output.stdout);
    for word in [".TH vxdp 8", "vxdp fdb add", "source_ports", "EXIT STATUS"] {
        assert!(page.contains(word), "{word}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vxdp"))
        .arg("man")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("vxdp runs");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}
