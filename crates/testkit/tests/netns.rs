//! Namespaces are real, separate, and gone afterwards.

use specola_testkit::netns::NetNs;
use specola_testkit::require_root;

#[test]
fn two_namespaces_talk_over_a_veth_and_vanish() {
    require_root();
    let (left, right) = (NetNs::new("left").expect("left"), NetNs::new("right").expect("right"));
    left.veth("toright", &right, "toleft");
    left.ip("addr add 10.99.0.1/24 dev toright");
    right.ip("addr add 10.99.0.2/24 dev toleft");
    assert_ne!(left.mac("toright"), right.mac("toleft"));
    let listener = right.enter(|| std::net::TcpListener::bind("10.99.0.2:7000")).expect("binds inside");
    left.enter(|| std::net::TcpStream::connect("10.99.0.2:7000")).expect("the other end answers");
    assert!(std::net::TcpListener::bind("10.99.0.2:7001").is_err(), "the address leaked into this namespace");
    drop(listener);
    let path = left.path().to_owned();
    drop(left);
    assert!(!path.exists(), "the namespace file is still there");
}
