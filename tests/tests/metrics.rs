//! What the real daemon serves: metrics that Prometheus likes, health; and crowds, here and at the API.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vxdp_control::cli::DEFAULT_SOCKET;
use vxdp_lab::{Attachment, Host, Lifetime, Mode, Ping, TwoHosts, wait_until};

const ADDRESS: &str = "127.0.0.1:9490";

/// The scenario with a metrics endpoint on each host.
fn with_metrics(name: &str, mode: Mode) -> Result<TwoHosts> {
    let configs = TwoHosts::configs(Attachment::Netns);
    let configs = configs.map(|config| format!("[control]\nmetrics = \"{ADDRESS}\"\n{config}"));
    TwoHosts::build_each(name, Attachment::Netns, [mode; 2], configs, Lifetime::Bound)
}

fn ask(host: &Host, request: &str) -> Result<String> {
    host.enter(|| {
        let mut stream = TcpStream::connect(ADDRESS)?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

fn get(host: &Host, path: &str, accept: &str) -> Result<(String, String)> {
    let answer = ask(host, &format!("GET {path} HTTP/1.1\r\nHost: h\r\nAccept: {accept}\r\n\r\n"))?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no head: {answer}"))?;
    Ok((head.to_owned(), body.to_owned()))
}

fn metrics(host: &Host) -> Result<String> {
    let (head, body) = get(host, "/metrics", "text/plain")?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Ok(body)
}

/// The value of a sample, by the beginning of its line.
fn value(text: &str, sample: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' ')));
    line?.rsplit(' ').next()?.parse().ok()
}

/// The figures are true, in this mode: a ping is counted on the path that carried it, with all of its bytes.
fn tells_what_a_ping_was(mode: Mode, path: &str) -> Result<()> {
    let scenario = with_metrics("metrics", mode)?;
    let host = scenario.lab().h1();
    let [(c1, _), (_, address2)] = scenario.containers()?;
    // The first frames are the kernel's in every mode: it learns from them.
    Ping::new(address2).count(2).expect_all(&c1)?;
    let sample = |what: &str, direction: &str| {
        format!(
            "vxdp_overlay_{what}_total{{vni=\"42\",udp_port=\"4789\",path=\"{path}\",direction=\"{direction}\"}}"
        )
    };
    let read = |what: &str, direction: &str| -> Result<f64> {
        Ok(value(&metrics(host)?, &sample(what, direction)).unwrap_or_default())
    };
    let start = read("frames", "encap")?;
    wait_until("the path carries", Duration::from_secs(10), || {
        Ping::new(address2).count(1).expect_all(&c1)?;
        Ok(read("frames", "encap")? > start)
    })?;
    let before = [read("frames", "encap")?, read("bytes", "encap")?, read("bytes", "decap")?];
    Ping::new(address2).count(20).interval(Duration::from_millis(20)).expect_all(&c1)?;
    wait_until("twenty pings of 98 bytes are counted both ways", Duration::from_secs(5), || {
        let after = [read("frames", "encap")?, read("bytes", "encap")?, read("bytes", "decap")?];
        // Address resolution may add a frame or two of the kernel's.
        let frames = after[0] - before[0];
        Ok((20.0..=24.0).contains(&frames)
            && after[1] - before[1] >= 20.0 * 98.0
            && after[1] - before[1] <= 24.0 * 98.0
            && after[2] - before[2] >= 20.0 * 98.0)
    })?;
    let text = metrics(host)?;
    if mode.is_fast() {
        ensure!(value(&text, "vxdp_vtep_resolved{vtep=\"192.168.10.22\"}") == Some(1.0), "{text}");
    }
    let file = scenario.lab().dir().join("metrics.txt");
    std::fs::write(&file, &text)?;
    let checked = host.script(&format!("promtool check metrics < {} 2>&1", file.display()))?;
    ensure!(checked.trim().is_empty(), "promtool: {checked}");
    let (head, body) = get(host, "/metrics", "application/openmetrics-text; version=1.0.0")?;
    ensure!(head.contains("openmetrics") && body.ends_with("# EOF\n"), "{head}\n{body}");
    let (head, body) = get(host, "/healthz", "*/*")?;
    ensure!(head.starts_with("HTTP/1.1 200 ") && body == "ok\n", "{head}\n{body}");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn metrics_in_kernel_mode_tell_what_a_ping_was_and_promtool_likes_them() {
    tells_what_a_ping_was(Mode::Kernel, "kernel").expect("kernel");
}

#[test]
#[ignore = "needs root"]
fn metrics_of_the_userspace_engine_tell_what_a_ping_was_and_promtool_likes_them() {
    tells_what_a_ping_was(Mode::Xdp, "userspace").expect("userspace");
}

#[test]
#[ignore = "needs root"]
fn metrics_of_the_inkernel_engine_tell_what_a_ping_was_and_promtool_likes_them() {
    tells_what_a_ping_was(Mode::InKernel, "inkernel").expect("inkernel");
}

#[test]
#[ignore = "needs root"]
fn a_thousand_clients_that_say_nothing_cost_a_scrape_and_the_overlay_nothing() {
    [Mode::Kernel, Mode::Xdp].into_iter().for_each(crowds_at_metrics);
}

fn crowds_at_metrics(mode: Mode) {
    let scenario = with_metrics("crowd", mode).expect("a lab");
    let outcome = || -> Result<()> {
        let host = scenario.lab().h1();
        let [(c1, _), (_, address2)] = scenario.containers()?;
        let silent = host.enter(|| {
            let connect = |_| {
                let address = ADDRESS.parse()?;
                Ok(TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok())
            };
            (0..1000)
                .map(connect)
                .take_while(|stream: &Result<_>| matches!(stream, Ok(Some(_))))
                .collect::<Result<Vec<_>>>()
        })?;
        ensure!(silent.len() > 32, "only {} connections", silent.len());
        Ping::new(address2).count(20).interval(Duration::from_millis(20)).expect_all(&c1)?;
        ensure!(host.status()?["mode"] == mode.as_str());
        // They hold every place still, and make room.
        let begun = Instant::now();
        metrics(host)?;
        ensure!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        drop(silent);
        let refused = ask(host, "POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")?;
        ensure!(refused.starts_with("HTTP/1.1 405 "), "{refused}");
        let garbage = ask(host, "\u{1}\u{2}\u{3}\r\n\r\n")?;
        ensure!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
        let (head, _) = get(host, "/nothing", "*/*")?;
        ensure!(head.starts_with("HTTP/1.1 404 "), "{head}");
        Ok(())
    };
    outcome().expect("bounded");
}

/// Makes room for a thousand connections in this process: an ordinary limit is 1024 descriptors.
fn allow_descriptors() -> Result<()> {
    let own = std::process::id().to_string();
    let status = Command::new("prlimit").args(["--nofile=4096:", "--pid", &own]).status()?;
    ensure!(status.success(), "no more descriptors: {status}");
    Ok(())
}

/// A thousand clients of the API that say nothing, and then a thousand that ask.
fn crowds_at_the_api(mode: Mode) -> Result<()> {
    const CROWD: usize = 1000;
    allow_descriptors()?;
    let scenario = TwoHosts::build("api-crowd", Attachment::Netns, mode, Lifetime::Bound)?;
    let host = scenario.lab().h1();
    let [(c1, _), (_, address2)] = scenario.containers()?;
    Ping::new(address2).count(2).expect_all(&c1)?;
    let before = scenario.daemon(0)?.memory()?;
    let socket = host.file(DEFAULT_SOCKET);
    let crowd = || (0..CROWD).map(|_| UnixStream::connect(&socket)).collect::<Result<Vec<_>, _>>();
    let silent = crowd()?;
    Ping::new(address2).count(20).expect_all(&c1)?;
    ensure!(host.status()?["pid"] == scenario.daemon(0)?.pid(), "another daemon answers");
    drop(silent);
    let mut asking = crowd()?;
    asking.iter_mut().try_for_each(|client| client.write_all(b"{\"version\":1,\"request\":\"status\"}\n"))?;
    Ping::new(address2).count(20).expect_all(&c1)?;
    for (number, client) in asking.into_iter().enumerate() {
        client.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut answer = String::new();
        BufReader::new(client).read_line(&mut answer).with_context(|| format!("client {number}"))?;
        ensure!(answer.contains("\"ok\""), "client {number}: {answer}");
    }
    let growth = scenario.daemon(0)?.memory()?.saturating_sub(before);
    eprintln!("{mode:?}: {} KiB more", growth >> 10);
    ensure!(growth < 32 << 20, "{growth} bytes more");
    Ok(())
}

#[test]
#[ignore = "needs root"]
fn a_thousand_clients_of_the_api_silent_or_asking_cost_the_overlay_nothing() {
    crowds_at_the_api(Mode::Kernel).expect("kernel");
}

#[test]
#[ignore = "needs root"]
fn a_thousand_clients_of_the_api_silent_or_asking_cost_the_overlay_nothing_in_xdp_mode() {
    crowds_at_the_api(Mode::Xdp).expect("xdp");
}

#[test]
#[ignore = "needs root"]
fn health_is_503_with_the_reason_while_the_mode_that_was_asked_for_cannot_be_had() {
    let scenario = with_metrics("health", Mode::Xdp).expect("a lab");
    let outcome = || -> Result<()> {
        let host = scenario.lab().h1();
        let health = || get(host, "/healthz", "*/*");
        let (head, body) = health()?;
        ensure!(head.starts_with("HTTP/1.1 200 ") && body == "ok\n", "{head}\n{body}");
        host.script("ip link del eth0")?;
        wait_until("health says what is missing", Duration::from_secs(15), || {
            let (head, body) = health()?;
            let said =
                body.contains("is not in xdp mode: ") || body.contains("cannot be put as they should be: ");
            Ok(head.starts_with("HTTP/1.1 503 ") && said)
        })
    };
    outcome().expect("told");
}

#[test]
#[ignore = "needs root"]
fn a_metrics_port_in_use_is_said_and_waited_for_while_the_overlay_works() {
    let scenario = TwoHosts::build("busyport", Attachment::Netns, Mode::Kernel, Lifetime::Bound);
    let mut scenario = scenario.expect("a lab");
    let mut outcome = || -> Result<()> {
        scenario.stop_daemons()?;
        let host = scenario.lab().h1();
        let taken = host.enter(|| Ok(std::net::TcpListener::bind(ADDRESS)?))?;
        let config = TwoHosts::configs(Attachment::Netns)[0];
        let path = host.write_config(&format!("[control]\nmetrics = \"{ADDRESS}\"\n{config}"))?;
        let _daemon = host.start_vxdp(&path, Mode::Xdp)?;
        wait_until("status says so", Duration::from_secs(5), || {
            let said = host.vxdp(&["status"])?.success()?;
            Ok(said.contains("no metrics: cannot listen at 127.0.0.1:9490") && said.contains("in use"))
        })?;
        let [(c1, _), (_, address2)] = scenario.containers()?;
        Ping::new(address2).count(3).expect_all(&c1)?;
        drop(taken);
        wait_until("it is served", Duration::from_secs(10), || Ok(metrics(host).is_ok()))
    };
    outcome().expect("said and waited for");
}
