//! Names of nodes in requests: peers that are called otherwise here are asked by the name that they know.

use specola_proto::observer::GetFlowsRequest;

/// Changes the filters on node names for a peer that is called `CLUSTER/NAME` here and has no cluster itself.
pub(crate) fn localize(request: &mut GetFlowsRequest, name: &str) {
    let Some((cluster, _)) = name.split_once('/') else { return };
    for filter in request.whitelist.iter_mut().chain(&mut request.blacklist) {
        let local: Vec<String> =
            filter.node_name.iter().filter_map(|pattern| local_pattern(pattern, cluster)).collect();
        // What names other clusters only matches nothing there, as it is.
        if !local.is_empty() {
            filter.node_name = local;
        }
    }
}

/// The pattern without its cluster; `None` when it is about another one.
fn local_pattern(pattern: &str, cluster: &str) -> Option<String> {
    match pattern.split_once('/') {
        None => Some(pattern.to_owned()),
        Some((wanted, node)) if wanted == cluster || wanted == "*" || wanted.is_empty() => {
            Some(if node.is_empty() { "*".to_owned() } else { node.to_owned() })
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use specola_proto::flow::FlowFilter;

    use super::*;

    #[test]
    fn patterns_lose_their_cluster_at_its_nodes() {
        for (patterns, expected) in [
            (&["east/n1"][..], &["n1"][..]),
            (&["east/", "west/n2"], &["*"]),
            (&["*/n*"], &["n*"]),
            (&["n1"], &["n1"]),
            (&["west/n1"], &["west/n1"]),
            (&[], &[]),
        ] {
            let node_name = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            let filter = FlowFilter { node_name, ..FlowFilter::default() };
            let mut request = GetFlowsRequest { whitelist: vec![filter], ..GetFlowsRequest::default() };
            localize(&mut request, "east/n1");
            assert_eq!(request.whitelist[0].node_name, expected, "{patterns:?}");
        }
    }
}
