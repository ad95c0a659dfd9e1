//! An answer to `status`, for tests of what is made of it.

use std::net::IpAddr;

use crate::api::status::{Status, VtepStatus};
use crate::engine::{Carried, DeviceReport, EngineReport, Frames, VerdictCount, VtepReport};
use crate::reach::Reach;

pub(crate) fn carried(frames: u64) -> Carried {
    let frames = Frames { frames, bytes: 98 * frames };
    Carried { encap: frames, decap: frames }
}

pub(crate) fn vtep(address: [u8; 4], carried: Carried) -> VtepReport {
    let next_hop = Some("02:00:c0:a8:0a:16".to_owned());
    VtepReport { address: IpAddr::from(address), next_hop, mtu: None, why: None, carried }
}

/// A VTEP on the kernel's path, with the state of its next hop.
pub(crate) fn kernel_vtep(address: [u8; 4], state: Option<&str>) -> VtepStatus {
    let address = IpAddr::from(address);
    let reach = Reach {
        device: Some("eth0".to_owned()),
        next_hop: address,
        mtu: None,
        mac: state.map(|_| "02:00:c0:a8:0a:16".to_owned()),
        asked: state.is_some(),
        state: state.map(str::to_owned),
    };
    VtepStatus { address, reach, why: None }
}

/// One overlay with one container; each path, the port and the VTEP have carried `frames` each way.
pub(crate) fn status(frames: u64) -> Status {
    let port = DeviceReport {
        device: "veth2".into(),
        vni: Some(42),
        regime: Some("driver".into()),
        carried: carried(frames),
        verdicts: vec![
            VerdictCount { verdict: "redirected".into(), frames },
            VerdictCount { verdict: "multicast".into(), frames },
        ],
        ..DeviceReport::default()
    };
    let underlay =
        DeviceReport { device: "eth0".into(), regime: Some("driver".into()), ..DeviceReport::default() };
    let engine = EngineReport {
        devices: vec![underlay, port],
        peers: vec![vtep([192, 168, 10, 22], carried(frames))],
        ..EngineReport::default()
    };
    let path = |name: &str| serde_json::json!({ "path": name, "encap": carried(frames).encap, "decap": carried(frames).decap });
    let status = serde_json::json!({
        "version": "0.1.0",
        "pid": 4711,
        "uptime_s": 3725,
        "mode": "xdp",
        "modes": {
            "mode": "xdp",
            "overlays": [],
            "trouble": null,
            "switched": 1,
            "switches": [],
            "engine": engine,
        },
        "underlay": { "device": "eth0", "local": "192.168.10.21", "mtu": 1500 },
        "overlays": [{
            "vni": 42,
            "port": 4789,
            "netns": "overlay",
            "bridge": "br0",
            "vxlan": "vxlan1",
            "mtu": 1450,
            "containers": [{
                "attach": "netns c1",
                "interface": "eth1",
                "host_interface": "veth2",
                "mac": "02:42:0a:00:00:02",
                "addresses": ["10.0.0.2/24"],
                "attached": true,
                "reason": null,
            }],
            "remotes": { "static": 1, "on_miss": 0, "added": 0 },
            "paths": [path("kernel"), path("userspace")],
        }],
        "reconcile": {
            "state": "settled",
            "failures": 0,
            "notifications": 0,
            "overflows": 0,
            "passes": 1,
            "changed": 1,
            "failed": 0,
            "last_us": 0,
        },
        "misses": crate::misses::Counters::default(),
        "errors": [],
    });
    serde_json::from_value(status).expect("as the daemon writes it")
}
