//! What a change of policies or identities costs on a large node: `cargo bench -p specola-policy --bench engine`.
//!
//! Prints Markdown; `--json FILE` writes the same figures. Times are CPU times of this thread, as the machine may be
//! busy with other things. The kernel's part is not in here.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use nix::time::ClockId;
use specola_labels::{Label, LabelSet, NumericIdentity};
use specola_policy::{
    Engine, PolicyObject, Settings, Subject, SubjectId, cidr_identity_labels, parse_policies, resolve,
};

const NAMESPACES: usize = 200;
const APPS: usize = 10;
const IDENTITIES: usize = 65_535;
const ENDPOINTS: usize = 500;
/// Policies whose peers the new identity is one of, each with a selector of its own.
const MATCHING: usize = 1_000;
/// The largest first, so that its memory is all new.
const POLICIES: [usize; 5] = [10_000, 3_000, 1_000, 300, 100];
const ROUNDS: usize = 400;

/// One line of the result.
#[derive(Debug)]
struct Row {
    policies: usize,
    build: Duration,
    from_nothing: Duration,
    policy: Spread,
    identity: Spread,
    endpoint: Spread,
    touched: usize,
    selectors: usize,
    entries: usize,
    memory_mib: f64,
}

/// Median, 99th percentile and maximum of many rounds.
#[derive(Clone, Copy, Debug)]
struct Spread {
    median: Duration,
    p99: Duration,
    max: Duration,
}

fn main() -> Result<(), Box<dyn Error>> {
    let json = json_file()?;
    let mut rows = Vec::new();
    for policies in POLICIES {
        rows.push(measure(policies)?);
    }
    rows.reverse();
    print_markdown(&rows);
    if let Some(path) = json {
        std::fs::write(&path, to_json(&rows)).map_err(|error| format!("cannot write {path}: {error}"))?;
    }
    Ok(())
}

fn measure(policies: usize) -> Result<Row, Box<dyn Error>> {
    let objects = (0..policies).map(|index| policy(index, 0)).collect::<Result<Vec<_>, _>>()?;
    let before = resident_mib()?;
    let mut engine = Engine::new(Settings::default());
    let started = Instant::now();
    for index in 0..IDENTITIES {
        engine.insert_identity(number(index), identity(index));
    }
    for object in objects {
        engine.upsert(object);
    }
    let subjects: Vec<SubjectId> = (0..ENDPOINTS).map(|index| engine.add_subject(endpoint(index))).collect();
    engine.update();
    let build = started.elapsed();
    let memory_mib = resident_mib()? - before;
    let entries = subjects.iter().filter_map(|id| Some(engine.policy(*id)?.ok()?.map().len())).sum();
    let started = Instant::now();
    for index in 0..ENDPOINTS {
        resolve(engine.repository(), &endpoint(index), engine.identities())?;
    }
    let from_nothing = started.elapsed();
    let policy = policy_changes(&mut engine, policies)?;
    let (identity, touched) = identity_changes(&mut engine);
    let endpoint = endpoint_changes(&mut engine);
    let selectors = engine.selectors();
    Ok(Row {
        policies,
        build,
        from_nothing,
        policy,
        identity,
        endpoint,
        touched,
        selectors,
        entries,
        memory_mib,
    })
}

/// One policy gets another port, or is added, or removed.
fn policy_changes(engine: &mut Engine, policies: usize) -> Result<Spread, Box<dyn Error>> {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let index = round * 7 % ENDPOINTS.min(policies);
        let object = policy(index, 1 + round)?;
        let reference = object.reference.clone();
        times.push(cpu_time(|| {
            engine.upsert(object);
            engine.update()
        })?);
        if round % 4 == 0 {
            times.push(cpu_time(|| {
                engine.remove(&reference);
                engine.update()
            })?);
            let object = policy(index, 0)?;
            times.push(cpu_time(|| {
                engine.upsert(object);
                engine.update()
            })?);
        }
    }
    Ok(Spread::of(times))
}

/// An identity that many selectors match comes and goes.
fn identity_changes(engine: &mut Engine) -> (Spread, usize) {
    let mut times = Vec::new();
    let mut touched = 0;
    for round in 0..ROUNDS {
        let number = NumericIdentity(100_000 + u32::try_from(round).unwrap_or(0));
        let labels = pod_labels(round % NAMESPACES, "newcomer", "red");
        let mut come = || {
            engine.insert_identity(number, labels.clone());
            touched = engine.update().len();
        };
        times.extend(cpu_time(&mut come));
        times.extend(cpu_time(|| {
            engine.remove_identity(number);
            engine.update()
        }));
    }
    (Spread::of(times), touched)
}

/// An endpoint of a new kind comes and goes.
fn endpoint_changes(engine: &mut Engine) -> Spread {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let labels = identity(round).with([Label::k8s("version", &round.to_string())]);
        let subject = Subject { labels, ..Subject::default() };
        let mut id = None;
        times.extend(cpu_time(|| {
            id = Some(engine.add_subject(subject.clone()));
            engine.update()
        }));
        if let Some(id) = id {
            engine.drop_subject(id);
        }
    }
    Spread::of(times)
}

impl Spread {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        Self { median: at(50), p99: at(99), max: times.last().copied().unwrap_or_default() }
    }
}

/// Policy `index`, in a namespace of its own turn; `variant` changes its ports.
fn policy(index: usize, variant: usize) -> Result<PolicyObject, String> {
    let namespace = index % NAMESPACES;
    let app = index / NAMESPACES % APPS;
    let from = (app + 1) % APPS;
    let port = 1_000 + variant;
    let matching = if index < MATCHING {
        format!(
            "
    - matchExpressions:
      - {{key: team, operator: In, values: [red]}}
      - {{key: other, operator: NotIn, values: [v{index}]}}
      - {{key: \"k8s:io.kubernetes.pod.namespace\", operator: Exists}}"
        )
    } else {
        String::new()
    };
    let text = format!(
        "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: p{index}, namespace: ns-{namespace}}}
spec:
  endpointSelector: {{matchLabels: {{app: app-{app}}}}}
  ingress:
  - fromEndpoints:
    - matchLabels: {{app: app-{from}}}{matching}
    toPorts: [{{ports: [{{port: \"{port}\", protocol: TCP}}, {{port: \"8000\", endPort: 8080, protocol: TCP}}]}}]
  - fromEntities: [host]
  egress:
  - toEndpoints: [{{matchLabels: {{app: app-{from}, tier: backend}}}}]
  - toCIDR: [10.{namespace}.0.0/16]
    toPorts: [{{ports: [{{port: \"443\", protocol: TCP}}]}}]
"
    );
    let mut parsed = parse_policies("bench", &text);
    parsed.objects.pop().ok_or_else(|| format!("{:?}", parsed.errors))
}

/// The first are those of prefixes, the others of pods.
fn identity(index: usize) -> LabelSet {
    if index < NAMESPACES {
        let prefix = format!("10.{index}.0.0/16").parse().expect("the text is a prefix");
        return cidr_identity_labels(prefix, Settings::default().ip_families);
    }
    let tier = ["frontend", "backend", "cache"][index % 3];
    let team = ["red", "blue"][usize::from(!index.is_multiple_of(1_000))];
    pod_labels(index % NAMESPACES, &format!("app-{}", index / NAMESPACES % APPS), team)
        .with([Label::k8s("tier", tier), Label::k8s("instance", &index.to_string())])
}

fn number(index: usize) -> NumericIdentity {
    let base = if index < NAMESPACES { NumericIdentity::LOCAL_MIN.0 } else { 256 };
    NumericIdentity(base + u32::try_from(index).unwrap_or(0))
}

fn pod_labels(namespace: usize, app: &str, team: &str) -> LabelSet {
    let namespace = format!("ns-{namespace}");
    let labels = [
        ("app", app),
        ("team", team),
        ("io.kubernetes.pod.namespace", &namespace),
        ("io.cilium.k8s.policy.cluster", "default"),
        ("io.cilium.k8s.policy.serviceaccount", "default"),
        ("io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", &namespace),
    ];
    labels.into_iter().map(|(key, value)| Label::k8s(key, value)).collect()
}

/// An endpoint that policy `index` selects.
fn endpoint(index: usize) -> Subject {
    let app = format!("app-{}", index / NAMESPACES % APPS);
    let labels = pod_labels(index % NAMESPACES, &app, "blue").with([Label::k8s("tier", "local")]);
    Subject { labels, namespace: format!("ns-{}", index % NAMESPACES), ..Subject::default() }
}

/// CPU time of this thread that the work takes.
fn cpu_time<T>(work: impl FnOnce() -> T) -> Result<Duration, std::io::Error> {
    let before = thread_time()?;
    std::hint::black_box(work());
    Ok(thread_time()?.saturating_sub(before))
}

fn thread_time() -> Result<Duration, std::io::Error> {
    Ok(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?.into())
}

fn resident_mib() -> Result<f64, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = text.split_whitespace().nth(1).ok_or("statm has another form")?.parse()?;
    Ok(pages * 4_096.0 / 1_048_576.0)
}

fn json_file() -> Result<Option<String>, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    match arguments.next() {
        None => Ok(None),
        Some(flag) if flag == "--json" => Ok(Some(arguments.next().ok_or("--json needs a file")?)),
        Some(other) => Err(format!("unknown argument {other}; the only one is --json FILE").into()),
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[expect(clippy::print_stdout, reason = "the result of a benchmark")]
fn print_markdown(rows: &[Row]) {
    println!("## Policy engine\n");
    println!(
        "{IDENTITIES} identities, {ENDPOINTS} endpoints; CPU time in ms, median / 99th percentile / maximum.\n"
    );
    println!(
        "| policies | selectors | map entries | full build | all endpoints from nothing | one policy changes | one identity comes or goes | endpoints that it touches | one endpoint comes | memory |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for row in rows {
        let spread = |s: Spread| format!("{:.3} / {:.3} / {:.3}", ms(s.median), ms(s.p99), ms(s.max));
        println!(
            "| {} | {} | {} | {:.0} | {:.0} | {} | {} | {} | {} | {:.0} MiB |",
            row.policies,
            row.selectors,
            row.entries,
            ms(row.build),
            ms(row.from_nothing),
            spread(row.policy),
            spread(row.identity),
            row.touched,
            spread(row.endpoint),
            row.memory_mib,
        );
    }
}

fn to_json(rows: &[Row]) -> String {
    let spread = |s: Spread| {
        BTreeMap::from([("median_ms", ms(s.median)), ("p99_ms", ms(s.p99)), ("max_ms", ms(s.max))])
    };
    let rows: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "policies": row.policies,
                "identities": IDENTITIES,
                "endpoints": ENDPOINTS,
                "selectors": row.selectors,
                "map_entries": row.entries,
                "full_build_ms": ms(row.build),
                "all_endpoints_from_nothing_ms": ms(row.from_nothing),
                "one_policy": spread(row.policy),
                "one_identity": spread(row.identity),
                "endpoints_touched_by_identity": row.touched,
                "one_endpoint": spread(row.endpoint),
                "memory_mib": row.memory_mib,
            })
        })
        .collect();
    serde_json::json!({ "benchmark": "policy engine", "rows": rows }).to_string()
}
