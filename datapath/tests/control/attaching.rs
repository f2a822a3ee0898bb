use std::time::Duration;

use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use specola_testkit::netns::NetNs;

use super::*;

/// Ids and names of the tcx programs of an interface of this thread's namespace, ingress first.
pub(super) fn tcx_programs(ifname: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for hook in [TcAttachType::Ingress, TcAttachType::Egress] {
        let (_, programs) = SchedClassifier::query_tcx(ifname, hook).unwrap();
        for program in programs {
            found.push((program.id(), program.name_as_str().unwrap_or_default().to_owned()));
        }
    }
    found
}

/// The kernel frees an unpinned link a moment later.
pub(super) fn expect_tcx_programs(ifname: &str, count: usize) {
    specola_testkit::eventually("links come and go", Duration::from_secs(10), || {
        let found = tcx_programs(ifname);
        if found.len() == count { Ok(()) } else { Err(found) }
    });
}

fn names_of(programs: &[(u32, String)]) -> Vec<&str> {
    programs.iter().map(|(_, name)| name.as_str()).collect()
}

/// Names of the clsact filters of an interface, as `tc` shows them.
fn filters(ns: &NetNs, ifname: &str) -> Vec<String> {
    let mut found = Vec::new();
    for hook in ["ingress", "egress"] {
        let output = ns.command("tc").args(["filter", "show", "dev", ifname, hook]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let names = text.lines().filter_map(|line| line.split("handle 0x5350 ").nth(1)?.split(' ').next());
        found.extend(names.map(|name| format!("{hook} {name}")));
    }
    found
}

fn veths(name: &str) -> NetNs {
    let ns = NetNs::new(name).unwrap();
    ns.ip("link add lxc0 type veth peer name eth0");
    ns.ip("link add specola_host type veth peer name specola_net");
    for ifname in ["lxc0", "eth0", "specola_host", "specola_net"] {
        ns.ip(&format!("link set {ifname} up"));
    }
    ns
}

fn attach_all(datapath: &mut Datapath, ns: &NetNs) {
    datapath.attach_endpoint(ns.ifindex("lxc0")).unwrap();
    datapath.attach_netdev(ns.ifindex("eth0")).unwrap();
    datapath.attach_host(ns.ifindex("specola_host")).unwrap();
}

#[test]
fn tcx_hooks_each_kind_of_interface_and_lets_go() {
    let pins = Pins::new();
    let ns = veths("dp-tcx");
    let config = Config { attach: AttachMode::Tcx, ..pins.config() };
    ns.enter(|| {
        let mut datapath = Datapath::load(&config).unwrap();
        assert_eq!(datapath.attach_mode(), AttachMode::Tcx);
        attach_all(&mut datapath, &ns);
        drop(datapath);
        // Nobody holds them but the pins.
        assert_eq!(names_of(&tcx_programs("lxc0")), ["from_container", "to_container"]);
        assert_eq!(names_of(&tcx_programs("eth0")), ["from_netdev", "to_netdev"]);
        assert_eq!(names_of(&tcx_programs("specola_host")), ["to_host", "from_host"]);
        let mut datapath = Datapath::load(&config).unwrap();
        let lxc = ns.ifindex("lxc0");
        let attached = datapath.attachments().unwrap();
        assert_eq!(attached.len(), 6);
        assert!(attached.contains(&Attachment { program: "from_container".into(), ifindex: lxc }));
        datapath.detach(lxc).unwrap();
        datapath.detach(lxc).unwrap();
        expect_tcx_programs("lxc0", 0);
        assert_eq!(datapath.attachments().unwrap().len(), 4);
    });
}

#[test]
fn clsact_filters_outlive_the_process_are_replaced_in_place_and_go_on_detach() {
    let pins = Pins::new();
    let ns = veths("dp-clsact");
    let config = Config { attach: AttachMode::Clsact, ..pins.config() };
    let everywhere = |filters_of: &dyn Fn(&str) -> Vec<String>| {
        assert_eq!(filters_of("lxc0"), ["ingress from_container", "egress to_container"]);
        assert_eq!(filters_of("eth0"), ["ingress from_netdev", "egress to_netdev"]);
        assert_eq!(filters_of("specola_host"), ["ingress to_host", "egress from_host"]);
    };
    for _ in 0..3 {
        ns.enter(|| attach_all(&mut Datapath::load(&config).unwrap(), &ns));
        everywhere(&|ifname| filters(&ns, ifname));
    }
    ns.enter(|| {
        let mut datapath = Datapath::load(&config).unwrap();
        for ifname in ["lxc0", "eth0", "specola_host"] {
            datapath.detach(ns.ifindex(ifname)).unwrap();
            datapath.detach(ns.ifindex(ifname)).unwrap();
        }
    });
    for ifname in ["lxc0", "eth0", "specola_host"] {
        assert_eq!(filters(&ns, ifname), Vec::<String>::new());
    }
}

#[test]
fn a_change_of_mode_leaves_one_program_per_hook() {
    let pins = Pins::new();
    let ns = veths("dp-mode");
    let lxc = ns.ifindex("lxc0");
    for (mode, links, clsact) in [
        (AttachMode::Tcx, 2, 0),
        (AttachMode::Clsact, 0, 2),
        (AttachMode::Auto, 2, 0),
        (AttachMode::Clsact, 0, 2),
    ] {
        ns.enter(|| {
            let config = Config { attach: mode, ..pins.config() };
            Datapath::load(&config).unwrap().attach_endpoint(lxc).unwrap();
            expect_tcx_programs("lxc0", links);
        });
        assert_eq!(filters(&ns, "lxc0").len(), clsact, "{mode:?}");
    }
}

#[test]
fn an_interface_that_is_gone_is_an_error_to_attach_and_none_to_detach() {
    let pins = Pins::new();
    let ns = veths("dp-gone");
    let lxc = ns.ifindex("lxc0");
    ns.enter(|| {
        let mut datapath = Datapath::load(&pins.config()).unwrap();
        datapath.attach_endpoint(lxc).unwrap();
        ns.ip("link del lxc0");
        let error = datapath.attach_endpoint(lxc).unwrap_err().to_string();
        assert_eq!(error, format!("interface {lxc} does not exist in this network namespace"));
        assert_eq!(datapath.attachments().unwrap().len(), 2, "dead links keep their pins until detached");
        datapath.detach(lxc).unwrap();
        assert_eq!(datapath.attachments().unwrap(), []);
    });
}

#[test]
fn a_dead_link_under_a_reused_index_is_replaced() {
    let pins = Pins::new();
    let ns = veths("dp-reuse");
    let lxc = ns.ifindex("lxc0");
    ns.enter(|| {
        let mut datapath = Datapath::load(&pins.config()).unwrap();
        datapath.attach_endpoint(lxc).unwrap();
        ns.ip("link del lxc0");
        ns.ip(&format!("link add lxc1 index {lxc} type veth peer name eth0"));
        datapath.attach_endpoint(lxc).unwrap();
        assert_eq!(names_of(&tcx_programs("lxc1")), ["from_container", "to_container"]);
    });
}
