//! The scenario with real Docker containers.

use std::time::Duration;

use anyhow::{Result, ensure};
use vxdp_lab::{Attachment, Lifetime, Mode, Ping, TwoHosts, wait_until};

fn scenario_with_docker(two_hosts: &TwoHosts, mode: Mode) -> Result<()> {
    let [(c1, address1), (c2, address2)] = two_hosts.containers()?;
    Ping::new(address2).expect_all(&c1)?;
    Ping::new(address1).expect_all(&c2)?;
    let text = two_hosts.docker(0)?.exec(&["ping", "-c", "1", "10.0.0.3"])?;
    ensure!(text.contains("1 packets received"), "{text}");
    // Another process in another network namespace, under the same name.
    let container = two_hosts.docker(0)?;
    let before = container.pid()?;
    container.restart()?;
    ensure!(container.pid()? != before, "it kept its process");
    let [(c1, _), _] = two_hosts.containers()?;
    wait_until("the restarted container is connected again", Duration::from_secs(15), || {
        Ok(Ping::new(address2).count(1).run(&c1).is_ok_and(|pinged| pinged.received == 1))
    })?;
    Ping::new(address1).expect_all(&c2)?;
    two_hosts.lab().expect_fast_path(&[mode; 2], &c1, address2)
}

#[test]
#[ignore = "needs root"]
fn two_docker_containers_reach_each_other_and_a_restart_reconnects() {
    for mode in [Mode::Kernel, Mode::Xdp] {
        let built = TwoHosts::build("docker", Attachment::Docker, mode, Lifetime::Bound);
        let two_hosts = built.unwrap_or_else(|error| panic!("{error:#}"));
        if let Err(error) = scenario_with_docker(&two_hosts, mode) {
            panic!("in {} mode: {error:#}", mode.as_str());
        }
    }
}
