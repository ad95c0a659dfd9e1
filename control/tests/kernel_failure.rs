//! Building that fails or is killed at each of its steps.

mod kernel_host;
mod scenario;

use std::io;
use std::panic::AssertUnwindSafe;
use std::slice;

use futures::FutureExt;
use kernel_host::{Host, container, ip, names, on_a_host, overlay, remote, rows, run, scenario, snapshot};
use vxdp_control::config::Overlay;
use vxdp_control::kernel::step::Step;
use vxdp_control::kernel::{Kernel, KernelError};

/// The scenario with one of everything.
fn rich() -> Overlay {
    Overlay {
        containers: vec![
            container("c1", "veth2", "02:42:0a:00:00:02", &["10.0.0.2/24"]),
            container("c2", "veth3", "02:42:0a:00:00:04", &["2001:db8::4/64"]),
        ],
        remotes: vec![
            remote("02:42:0a:00:00:03", &["10.0.0.3"], "192.168.10.22"),
            remote("02:42:0a:00:00:05", &[], "192.168.10.23"),
        ],
        flood: vec![ip("192.168.10.22"), ip("192.168.10.23")],
        ..overlay(42)
    }
}

fn containers() {
    run("ip netns add c1");
    run("ip netns add c2");
}

/// Fails the step with this number, counted from 0.
fn fail_at(kernel: &mut Kernel, number: usize) {
    let mut count = 0;
    kernel.before_each_step(move |_| {
        count += 1;
        if count > number { Err(io::Error::from_raw_os_error(nix::libc::ENOMEM)) } else { Ok(()) }
    });
}

async fn steps_of_a_build(host: &Host, spec: &Overlay) -> Vec<Step> {
    let mut kernel = host.kernel().await;
    let report = kernel.reconcile(&host.desired(slice::from_ref(spec))).await.expect("built");
    kernel.down().await.expect("removed");
    report.steps
}

fn assert_nothing_is_left(host: &Host, what: &Step) {
    let mut namespaces: Vec<String> = run("ip netns list").lines().map(|line| line[..2].to_owned()).collect();
    namespaces.sort();
    assert_eq!(namespaces, ["c1", "c2"], "after a failure to {what}");
    assert_eq!(names("c1"), ["lo"], "after a failure to {what}");
    assert_eq!(names("c2"), ["lo"], "after a failure to {what}");
    assert!(!host.ledger().exists(), "after a failure to {what}");
}

/// The ledger in its shortest form.
async fn ledger_lines(host: &Host) -> Vec<String> {
    // Opening rewrites it.
    drop(host.kernel().await);
    let text = std::fs::read_to_string(host.ledger()).expect("a ledger");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
#[ignore = "needs root"]
fn a_failure_at_any_step_of_building_leaves_nothing_behind() {
    on_a_host(async |host| {
        containers();
        let steps = steps_of_a_build(&host, &rich()).await;
        assert!(steps.len() > 20, "{}", steps.len());
        for (number, step) in steps.iter().enumerate() {
            let mut kernel = host.kernel().await;
            fail_at(&mut kernel, number);
            let error = kernel.reconcile(&host.desired(&[rich()])).await.expect_err("it was made to fail");
            let text = error.to_string();
            assert!(text.starts_with(&format!("cannot {step}: Cannot allocate memory")), "{text}");
            assert_nothing_is_left(&host, step);
        }
        host.kernel().await.reconcile(&host.desired(&[rich()])).await.expect("nothing stands in the way");
    });
}

#[test]
#[ignore = "needs root"]
fn a_failed_repair_leaves_what_stood_before() {
    on_a_host(async |host| {
        containers();
        let small = Overlay { containers: rich().containers[..1].to_vec(), ..scenario() };
        host.kernel().await.reconcile(&host.desired(slice::from_ref(&small))).await.expect("built");
        let ledger = ledger_lines(&host).await;
        let before = snapshot(&["overlay", "c1", "c2"]);
        // Changes of MTU, ageing and a row's value, and things to add.
        let mut big = Overlay { mtu: Some(1400), ageing: 100, ..rich() };
        big.remotes[0].vtep = ip("192.168.10.24");
        for number in 0.. {
            let mut kernel = host.kernel().await;
            fail_at(&mut kernel, number);
            match kernel.reconcile(&host.desired(slice::from_ref(&big))).await {
                Err(KernelError::Step(_)) => {}
                Err(error) => panic!("{error}"),
                Ok(_) => break,
            }
            assert_eq!(snapshot(&["overlay", "c1", "c2"]), before, "after a failure at step {number}");
            assert_eq!(ledger_lines(&host).await, ledger, "after a failure at step {number}");
        }
        assert_eq!(host.kernel().await.reconcile(&host.desired(&[big])).await.expect("fine").steps, []);
    });
}

/// Reconciles and is gone, without any undo, when the step with this number comes.
async fn killed_at(host: &Host, spec: &Overlay, number: usize) {
    let mut kernel = host.kernel().await;
    let mut count = 0;
    kernel.before_each_step(move |_| {
        count += 1;
        // Unwinding out of the call runs none of its code any more, just like a signal.
        if count > number { std::panic::resume_unwind(Box::new("killed")) } else { Ok(()) }
    });
    let desired = host.desired(slice::from_ref(spec));
    let outcome = AssertUnwindSafe(kernel.reconcile(&desired)).catch_unwind().await;
    assert!(outcome.is_err(), "it was made to die at step {number}");
}

#[test]
#[ignore = "needs root"]
fn what_was_killed_at_any_step_is_completed_by_the_next_run() {
    on_a_host(async |host| {
        containers();
        let steps = steps_of_a_build(&host, &rich()).await.len();
        host.kernel().await.reconcile(&host.desired(&[rich()])).await.expect("built");
        let whole = snapshot(&["overlay", "c1", "c2"]);
        host.kernel().await.down().await.expect("removed");
        for number in 0..steps {
            killed_at(&host, &rich(), number).await;
            host.kernel().await.reconcile(&host.desired(&[rich()])).await.expect("completed");
            assert_eq!(snapshot(&["overlay", "c1", "c2"]), whole, "killed at step {number}");
            host.kernel().await.down().await.expect("removed");
            assert!(!host.ledger().exists());
        }
    });
}

#[test]
#[ignore = "needs root"]
fn what_was_killed_at_any_step_is_removed_by_down() {
    on_a_host(async |host| {
        containers();
        let steps = steps_of_a_build(&host, &rich()).await;
        for (number, step) in steps.iter().enumerate() {
            killed_at(&host, &rich(), number).await;
            host.kernel().await.down().await.expect("removed");
            assert_nothing_is_left(&host, step);
        }
    });
}

#[test]
#[ignore = "needs root"]
fn a_ledger_that_names_what_was_never_made_is_no_obstacle() {
    on_a_host(async |host| {
        containers();
        host.kernel().await.reconcile(&host.desired(&[rich()])).await.expect("built");
        let full = std::fs::read(host.ledger()).expect("a ledger");
        host.kernel().await.down().await.expect("removed");

        std::fs::write(host.ledger(), &full).expect("written");
        assert_eq!(host.kernel().await.down().await.expect("nothing there").steps, []);
        assert!(!host.ledger().exists());

        std::fs::write(host.ledger(), &full).expect("written");
        host.kernel().await.reconcile(&host.desired(&[rich()])).await.expect("built");
        assert_eq!(rows("overlay").len(), 7);
        host.kernel().await.down().await.expect("removed");
    });
}

#[test]
#[ignore = "needs root"]
fn an_interrupted_namespace_is_made_again() {
    on_a_host(async |host| {
        std::fs::write(
            host.ledger(),
            "{\"ledger\":{\"version\":1}}\n{\"add\":{\"object\":\"netns\",\"name\":\"overlay\"}}\n",
        )
        .expect("written");
        std::fs::write("/run/netns/overlay", "").expect("a plain file");
        host.kernel().await.reconcile(&host.desired(&[overlay(42)])).await.expect("built");
        assert_eq!(names("overlay"), ["br0", "lo", "vxlan1"]);
        host.kernel().await.down().await.expect("removed");
        // The same file without our record of it is somebody else's.
        std::fs::write("/run/netns/overlay", "").expect("a plain file");
        let error = host.kernel().await.reconcile(&host.desired(&[overlay(42)])).await.expect_err("taken");
        assert!(error.to_string().contains("/run/netns/overlay is a plain file"), "{error}");
    });
}

#[test]
#[ignore = "needs root"]
fn a_vni_that_another_device_holds_is_explained() {
    on_a_host(async |host| {
        run("ip link add other type vxlan id 42 dstport 4789");
        let error = host.kernel().await.reconcile(&host.desired(&[overlay(42)])).await.expect_err("taken");
        let text = error.to_string();
        assert!(
            text.starts_with(
                "cannot create vxlan device vxlan1 (vni 42, port 4789) in namespace overlay: File exists"
            ),
            "{text}"
        );
        assert!(text.contains("A VXLAN device with the specified VNI already exists"), "{text}");
        assert!(text.contains("ip -d link show type vxlan"), "{text}");
        assert_eq!(run("ip netns list"), "");
        assert!(!host.ledger().exists());
    });
}
