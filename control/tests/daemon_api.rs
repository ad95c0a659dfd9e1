//! The daemon's socket, and the commands that use it.

mod daemon;
mod kernel_host;
mod scenario;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use daemon::{
    config, exists, has_bridge_row, has_fdb, has_neighbour, socket, spawn, start, start_with,
    vxdp_to_its_end, write,
};
use kernel_host::{names, on_a_host, run};
use nix::sys::signal::Signal;
use vxdp_control::api::status::Origin;

const ADDED: &str = "02:42:0a:00:00:09";

/// `vxdp fdb` with these words, on this host's socket.
fn fdb(host: &kernel_host::Host, words: &[&str]) -> (Option<i32>, String) {
    let socket = socket(host);
    let socket = ["--socket", socket.to_str().expect("UTF-8")];
    vxdp_to_its_end(&[&["fdb"], words, &socket].concat())
}

fn add(host: &kernel_host::Host) {
    let words = ["add", ADDED, "--vni", "42", "--vtep", "192.168.10.23", "--address", "10.0.0.9"];
    assert_eq!(fdb(host, &words), (Some(0), String::new()));
}

fn is_added() -> [bool; 3] {
    [has_fdb(ADDED), has_bridge_row(ADDED), has_neighbour("10.0.0.9")]
}

#[test]
#[ignore = "needs root"]
fn the_socket_is_its_owners_and_goes_with_the_daemon() {
    on_a_host(async |host| {
        let mut daemon = start(&host, "static");
        let mode = std::fs::metadata(socket(&host)).expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        daemon.signal(Signal::SIGINT);
        assert!(daemon.end().success());
        assert!(!exists(&socket(&host)));
    });
}

#[test]
#[ignore = "needs root"]
fn a_second_daemon_is_refused_and_the_first_one_is_not_disturbed() {
    on_a_host(async |host| {
        let first = start(&host, "static");
        let mut second = spawn(&host, &config(&host, "static"));
        assert_eq!(second.end().code(), Some(1));
        assert!(second.log().contains(&format!("pid {}", first.pid())), "{}", second.log());
        assert_eq!(first.status().pid, first.pid());
        assert!(exists(&socket(&host)));
    });
}

#[test]
#[ignore = "needs root"]
fn a_stale_socket_of_a_killed_daemon_is_replaced() {
    on_a_host(async |host| {
        let mut killed = start(&host, "static");
        killed.signal(Signal::SIGKILL);
        killed.end();
        assert!(exists(&socket(&host)));
        let daemon = start_with(&host, &config(&host, "static"));
        assert_eq!(daemon.status().pid, daemon.pid());
    });
}

#[test]
#[ignore = "needs root"]
fn any_bytes_are_answered_and_the_daemon_lives() {
    on_a_host(async |host| {
        let daemon = start(&host, "static");
        let endless = vec![b'{'; 200 << 10];
        let nested = [vec![b'['; 30_000], b"\n".to_vec()].concat();
        for bytes in [
            &b"\xff\x00\n"[..],
            b"GET / HTTP/1.1\r\n\r\n",
            b"{\"version\":1}\n",
            b"\n\n\n",
            &endless,
            &nested,
        ] {
            let mut stream = UnixStream::connect(socket(&host)).expect("a connection");
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
            // It may hang up before it has read all.
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = String::new();
            match stream.read_to_string(&mut answer) {
                Ok(_) => assert!(answer.contains("\"error\""), "{answer}"),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
            }
        }
        assert_eq!(daemon.status().pid, daemon.pid());
    });
}

#[test]
#[ignore = "needs root"]
fn an_added_remote_stays_until_it_is_deleted_also_over_a_restart() {
    on_a_host(async |host| {
        let mut daemon = start(&host, "static");
        add(&host);
        assert_eq!(is_added(), [true; 3]);
        let origins = |daemon: &daemon::Daemon| {
            let rows = daemon.rows().into_iter().filter(|row| row.mac.as_deref() == Some(ADDED));
            rows.map(|row| row.origin).collect::<Vec<_>>()
        };
        assert_eq!(origins(&daemon), [Origin::Added; 3]);
        run(&format!("bridge -n overlay fdb del {ADDED} dev vxlan1 self"));
        daemon.wait_until("its row is back", || has_fdb(ADDED));

        daemon.signal(Signal::SIGKILL);
        daemon.end();
        let daemon = start_with(&host, &config(&host, "static"));
        assert_eq!(is_added(), [true; 3]);
        assert_eq!(origins(&daemon), [Origin::Added; 3]);
        assert_eq!(daemon.status().overlays[0].remotes.added, 1);

        assert_eq!(fdb(&host, &["del", ADDED, "--vni", "42"]), (Some(0), String::new()));
        assert_eq!(is_added(), [false; 3]);
        daemon.wait_settled();
        assert_eq!(is_added(), [false; 3]);
    });
}

#[test]
#[ignore = "needs root"]
fn a_learned_row_can_be_deleted_and_those_of_others_not() {
    on_a_host(async |host| {
        let _daemon = start(&host, "static");
        let (learned, foreign) = ("06:00:00:00:00:01", "06:00:00:00:00:02");
        run(&format!("bridge -n overlay fdb add {learned} dev vxlan1 self dynamic dst 192.168.10.77"));
        run(&format!("bridge -n overlay fdb add {foreign} dev vxlan1 self dst 192.168.10.77"));
        assert_eq!(fdb(&host, &["del", learned, "--vni", "42"]), (Some(0), String::new()));
        assert!(!has_fdb(learned));
        for (mac, word) in
            [(foreign, "another program"), (daemon::REMOTE, "configuration"), (ADDED, "no row")]
        {
            let (code, text) = fdb(&host, &["del", mac, "--vni", "42"]);
            assert_eq!(code, Some(1), "{text}");
            assert!(text.contains(word), "{text}");
        }
        assert!(has_fdb(foreign) && has_fdb(daemon::REMOTE));
    });
}

#[test]
#[ignore = "needs root"]
fn down_stops_the_daemon_and_removes_what_it_made_and_nothing_else() {
    on_a_host(async |host| {
        run("ip netns add other");
        let before = names("other");
        let mut daemon = start(&host, "on-miss");
        add(&host);
        let file = write(&host, &config(&host, "on-miss"));
        let (code, text) = vxdp_to_its_end(&["down", "--config", file.to_str().expect("UTF-8")]);
        assert_eq!(code, Some(0), "{text}");
        assert!(daemon.end().success(), "{}", daemon.log());
        let namespaces = run("ip netns list");
        assert!(!namespaces.contains("overlay") && namespaces.contains("other"), "{namespaces}");
        assert!(!names("c1").contains(&"eth1".to_owned()));
        assert_eq!(names("other"), before);
        // Of our files only the configuration and the log are left.
        let directory = host.ledger().parent().expect("a directory").to_owned();
        let left = std::fs::read_dir(directory).expect("entries").flatten();
        let left: Vec<_> =
            left.map(|entry| entry.file_name()).filter(|n| n != "vxdp.toml" && n != "vxdp.log").collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
#[ignore = "needs root"]
fn down_works_without_a_daemon_and_twice() {
    on_a_host(async |host| {
        let mut daemon = start(&host, "static");
        daemon.signal(Signal::SIGKILL);
        daemon.end();
        let file = write(&host, &config(&host, "static"));
        let words = ["down", "--config", file.to_str().expect("UTF-8")];
        let (code, text) = vxdp_to_its_end(&words);
        assert_eq!(code, Some(0), "{text}");
        assert!(!run("ip netns list").contains("overlay"));
        assert_eq!(vxdp_to_its_end(&words), (Some(0), "nothing to remove\n".to_owned()));
    });
}

#[test]
#[ignore = "needs root"]
fn commands_without_a_daemon_say_so() {
    on_a_host(async |host| {
        let (code, text) = fdb(&host, &["show"]);
        assert_eq!(code, Some(1));
        assert!(text.contains("no daemon"), "{text}");
    });
}
