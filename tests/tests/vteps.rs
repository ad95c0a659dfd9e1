//! `vxdp status` shows the VTEPs on the kernel's path, and how the kernel would send to them.

use anyhow::ensure;
use vxdp_lab::{Family, Mode, Ping, Segment, deploy, scenario};

#[test]
#[ignore = "needs root"]
fn status_shows_the_kernels_way_to_configured_and_to_learned_vteps() {
    scenario("kernel-vteps", |lab| {
        let segment = Segment::scenario();
        let _daemons = deploy(lab, Family::V4, std::slice::from_ref(&segment), &[Mode::Kernel; 2])?;
        let ((c1, _), (_, address)) = (segment.place(lab, 0)?, segment.place(lab, 1)?);
        let (host, overlay) = (lab.h1(), lab.h1().netns("overlay"));
        Ping::new(address).expect_all(&c1)?;
        overlay.script("bridge fdb add 02:42:0a:00:00:09 dev vxlan1 dst 203.0.113.9 self dynamic")?;
        let vteps = host.status()?["vteps"].take();
        ensure!(vteps.as_array().is_some_and(|vteps| vteps.len() == 2), "{vteps}");
        let (peer, learned) = (&vteps[0], &vteps[1]);
        ensure!(peer["address"] == "192.168.10.22" && peer["device"] == "eth0", "{peer}");
        ensure!(peer["mac"] == lab.h2().underlay_mac() && peer["why"].is_null(), "{peer}");
        ensure!(
            ["reachable", "stale", "delay", "probe"].iter().any(|state| peer["state"] == *state),
            "{peer}"
        );
        ensure!(learned["why"] == "no route leads to 203.0.113.9", "{learned}");
        let shown = host.vxdp(&["status"])?.success()?;
        for words in [lab.h2().underlay_mac().as_str(), "no route leads to 203.0.113.9"] {
            ensure!(shown.contains(words), "no `{words}`:\n{shown}");
        }
        host.vxdp(&["mode", "xdp"])?.success()?;
        ensure!(host.status()?["vteps"] == serde_json::json!([]), "they are in the engine's report");
        Ok(())
    });
}
