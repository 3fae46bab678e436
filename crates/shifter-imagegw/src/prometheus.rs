//! What the process counts, and the text of `GET /metrics` (Prometheus' format 0.0.4).
//!
//! Labels come from closed lists: no image, user, system or address ever becomes one. Counters are the process's, so
//! they are one static; what the catalog and the cache know is read when somebody asks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::model::Job;

/// All that the process counts.
pub(crate) static METRICS: Metrics = Metrics::new();

/// The routes that are told apart; all other targets are `other`.
const ROUTES: [&str; 23] = [
    "other",
    "root",
    "healthz",
    "readyz",
    "prometheus",
    "status",
    "openapi.json",
    "list",
    "queue",
    "lookup",
    "pull",
    "job",
    "expire",
    "autoexpire",
    "metrics",
    "image",
    "restore",
    "pin",
    "unpin",
    "history",
    "login",
    "doimport",
    "upload",
];

const STATES: [&str; 6] = ["INIT", "PENDING", "PULLING", "EXAMINATION", "CONVERSION", "TRANSFER"];

/// Upper bounds in seconds.
const FAST: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 60.0];
const SLOW: [f64; 11] = [0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 1800.0, 7200.0];

struct Histogram {
    /// Of each bucket alone; the last is what is beyond all bounds.
    counts: [AtomicU64; 12],
    microseconds: AtomicU64,
}

impl Histogram {
    const fn new() -> Histogram {
        Histogram { counts: [const { AtomicU64::new(0) }; 12], microseconds: AtomicU64::new(0) }
    }

    fn add(&self, bounds: &[f64; 11], seconds: f64) {
        let bucket = bounds.iter().position(|bound| seconds <= *bound).unwrap_or(bounds.len());
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        self.microseconds.fetch_add((seconds * 1e6) as u64, Relaxed);
    }

    fn write(&self, out: &mut String, bounds: &[f64; 11], name: &str, label: &str) {
        let mut sum = 0;
        for (count, bound) in self.counts.iter().zip(bounds.iter().map(f64::to_string).chain(["+Inf".into()]))
        {
            sum += count.load(Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{label},le=\"{bound}\"}} {sum}");
        }
        let _ = writeln!(out, "{name}_sum{{{label}}} {}", self.microseconds.load(Relaxed) as f64 / 1e6);
        let _ = writeln!(out, "{name}_count{{{label}}} {sum}");
    }
}

/// The counters.
pub(crate) struct Metrics {
    requests: Mutex<BTreeMap<(usize, u16), u64>>,
    latencies: [Histogram; ROUTES.len()],
    pulls: [Histogram; 2],
    layers_fetched: AtomicU64,
    layers_kept: AtomicU64,
    layer_bytes: AtomicU64,
    catalog_errors: AtomicU64,
    lookups_remembered: AtomicU64,
    munge_refused: AtomicU64,
    munge_unavailable: AtomicU64,
    reloads: [AtomicU64; 2],
}

/// What is read when somebody asks; absent where it cannot be read.
#[derive(Clone, Default)]
pub(crate) struct Gauges {
    pub(crate) jobs: Option<Vec<Job>>,
    /// Blobs, and bytes of them.
    pub(crate) cache: Option<(usize, u64)>,
}

impl Metrics {
    const fn new() -> Metrics {
        Metrics {
            requests: Mutex::new(BTreeMap::new()),
            latencies: [const { Histogram::new() }; ROUTES.len()],
            pulls: [const { Histogram::new() }; 2],
            layers_fetched: AtomicU64::new(0),
            layers_kept: AtomicU64::new(0),
            layer_bytes: AtomicU64::new(0),
            catalog_errors: AtomicU64::new(0),
            lookups_remembered: AtomicU64::new(0),
            munge_refused: AtomicU64::new(0),
            munge_unavailable: AtomicU64::new(0),
            reloads: [const { AtomicU64::new(0) }; 2],
        }
    }

    /// A request to this path was answered.
    pub(crate) fn request(&self, path: &str, status: u16, took: Duration) {
        let route = route_of(path);
        *self.requests.lock().unwrap_or_else(PoisonError::into_inner).entry((route, status)).or_default() +=
            1;
        if let Some(histogram) = self.latencies.get(route) {
            histogram.add(&FAST, took.as_secs_f64());
        }
    }

    /// A pull ended well or not.
    pub(crate) fn pull_ended(&self, is_ready: bool, seconds: f64) {
        self.pulls[usize::from(!is_ready)].add(&SLOW, seconds);
    }

    /// A layer of so many bytes came from a registry, or from the part of it that was here.
    pub(crate) fn layer_fetched(&self, bytes: u64) {
        self.layers_fetched.fetch_add(1, Relaxed);
        self.layer_bytes.fetch_add(bytes, Relaxed);
    }

    /// So many layers of an image were here already.
    pub(crate) fn layers_kept(&self, count: usize) {
        self.layers_kept.fetch_add(count as u64, Relaxed);
    }

    pub(crate) fn catalog_failed(&self) {
        self.catalog_errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn lookup_remembered(&self) {
        self.lookups_remembered.fetch_add(1, Relaxed);
    }

    /// A credential was refused, or could not be checked.
    pub(crate) fn munge_failed(&self, is_refusal: bool) {
        if is_refusal { &self.munge_refused } else { &self.munge_unavailable }.fetch_add(1, Relaxed);
    }

    pub(crate) fn reloaded(&self, is_taken: bool) {
        self.reloads[usize::from(!is_taken)].fetch_add(1, Relaxed);
    }

    /// The whole text.
    pub(crate) fn render(&self, gauges: &Gauges, is_ready: bool) -> String {
        let mut out = String::with_capacity(16 << 10);
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        about(&mut out, "shifter_requests_total", "counter", "HTTP requests by route and status.");
        for ((route, status), count) in &requests {
            let route = ROUTES.get(*route).unwrap_or(&"other");
            let _ = writeln!(out, "shifter_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}");
        }
        about(&mut out, "shifter_request_seconds", "histogram", "Time to the answer's head, by route.");
        for (index, (route, histogram)) in ROUTES.iter().zip(&self.latencies).enumerate() {
            if requests.keys().any(|(seen, _)| *seen == index) {
                histogram.write(&mut out, &FAST, "shifter_request_seconds", &format!("route=\"{route}\""));
            }
        }
        about(
            &mut out,
            "shifter_pull_seconds",
            "histogram",
            "Time of this process's pulls, by how they ended.",
        );
        for (result, histogram) in ["ready", "failure"].iter().zip(&self.pulls) {
            histogram.write(&mut out, &SLOW, "shifter_pull_seconds", &format!("result=\"{result}\""));
        }
        for (name, help, count) in [
            ("layers_fetched", "Layers fetched from registries.", &self.layers_fetched),
            (
                "layers_kept",
                "Layers that needed no fetching, being in the cache or in an image.",
                &self.layers_kept,
            ),
            ("layer_bytes", "Bytes of the layers that were fetched.", &self.layer_bytes),
            ("catalog_errors", "Failed steps in the catalog.", &self.catalog_errors),
            ("lookups_remembered", "Lookups that were answered from memory.", &self.lookups_remembered),
        ] {
            about(&mut out, &format!("shifter_{name}_total"), "counter", help);
            let _ = writeln!(out, "shifter_{name}_total {}", count.load(Relaxed));
        }
        about(
            &mut out,
            "shifter_munge_failures_total",
            "counter",
            "Credentials that were refused or not checked.",
        );
        for (kind, count) in [("refused", &self.munge_refused), ("unavailable", &self.munge_unavailable)] {
            let _ = writeln!(out, "shifter_munge_failures_total{{kind=\"{kind}\"}} {}", count.load(Relaxed));
        }
        about(&mut out, "shifter_reloads_total", "counter", "Reloads of the configuration.");
        for (result, count) in ["taken", "refused"].iter().zip(&self.reloads) {
            let _ = writeln!(out, "shifter_reloads_total{{result=\"{result}\"}} {}", count.load(Relaxed));
        }
        if let Some(jobs) = &gauges.jobs {
            about(
                &mut out,
                "shifter_jobs",
                "gauge",
                "Unfinished pulls in the catalog, of all gateways, by state.",
            );
            for state in STATES {
                let count = jobs.iter().filter(|job| job.status.as_str() == state).count();
                let _ = writeln!(out, "shifter_jobs{{state=\"{state}\"}} {count}");
            }
        }
        let mut gauge = |name: &str, help: &str, value: u64| {
            about(&mut out, name, "gauge", help);
            let _ = writeln!(out, "{name} {value}");
        };
        if let Some((blobs, bytes)) = gauges.cache {
            gauge("shifter_cache_blobs", "Whole blobs in CacheDirectory.", blobs as u64);
            gauge("shifter_cache_bytes", "Bytes in CacheDirectory's blobs.", bytes);
        }
        gauge("shifter_ready", "Whether /readyz says yes.", u64::from(is_ready));
        about(&mut out, "shifter_build_info", "gauge", "The version that runs.");
        let _ = writeln!(out, "shifter_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        out
    }
}

fn about(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// The route's place in the closed list, from the path as it was sent.
fn route_of(path: &str) -> usize {
    let path = path.strip_suffix('/').unwrap_or(path);
    let name = match path {
        "" => "root",
        "/healthz" | "/readyz" => path.trim_start_matches('/'),
        "/metrics" => "prometheus",
        _ => path.strip_prefix("/api/").and_then(|rest| rest.split('/').next()).unwrap_or("other"),
    };
    // The first five are no names of API routes.
    ROUTES
        .iter()
        .position(|route| *route == name)
        .filter(|at| *at > 4 || !path.starts_with("/api/"))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_of_the_table_is_counted_under_a_name_of_its_own() {
        for route in crate::routes::all() {
            for path in [route.path.to_owned(), format!("{}/", route.path.trim_end_matches('/'))] {
                assert_ne!(route_of(&path), 0, "{path}");
            }
        }
    }

    #[test]
    fn names_of_images_users_and_systems_never_become_labels() {
        let metrics = Metrics::new();
        for (path, status) in [
            ("/api/lookup/secretsystem/docker/secretimage", 200),
            ("/api/lookup/secretsystem/docker/secretimage", 404),
            ("/secretimage", 404),
            ("/api/secretimage/x", 404),
            ("/api/healthz", 404),
            ("/", 200),
        ] {
            metrics.request(path, status, Duration::from_millis(3));
        }
        metrics.pull_ended(false, 40.0);
        let text = metrics.render(&Gauges { jobs: Some(Vec::new()), cache: Some((2, 10)) }, true);
        assert!(!text.contains("secret"), "{text}");
        for line in [
            "shifter_requests_total{route=\"lookup\",status=\"200\"} 1",
            "shifter_requests_total{route=\"other\",status=\"404\"} 3",
            "shifter_request_seconds_bucket{route=\"lookup\",le=\"0.0025\"} 0",
            "shifter_request_seconds_bucket{route=\"lookup\",le=\"0.005\"} 2",
            "shifter_request_seconds_bucket{route=\"lookup\",le=\"+Inf\"} 2",
            "shifter_request_seconds_sum{route=\"lookup\"} 0.006",
            "shifter_pull_seconds_count{result=\"failure\"} 1",
            "shifter_jobs{state=\"PULLING\"} 0",
            "shifter_cache_bytes 10",
            "shifter_ready 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        // Every series has its type, and lines are `name{labels} value`.
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap_or_default();
            let name = series.split('{').next().unwrap_or_default();
            let base =
                ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(value.parse::<f64>().is_ok() && text.contains(&format!("# TYPE {base} ")), "{line}");
        }
    }
}
