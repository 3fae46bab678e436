//! The original's documents, retyped under `tests/documents/`, and a site whose gateway is configured by them: MongoDB
//! and registries have the names, addresses and ports that stand there, in a network of the test's own.

use super::shell_image;
use shifter_tests::fixture::{Built, Image, Layer, file};
use shifter_tests::harness::{Gateway, Mongo, Munged, Outcome, RegistryOptions, Sandbox, enter_own_network};
use std::fs;
use std::path::Path;

/// Compiled in: a sandbox covers `/tmp` and `/home`, where the sources may lie.
macro_rules! documents {
    ($($name:literal)*) => { [$(($name, include_str!(concat!("../../documents/", $name)))),*] };
}

pub fn document(name: &str) -> String {
    let all = documents!(
        "authorized_locations.json" "imagemanager.import.json" "imagemanager.json.example"
        "imagemanager.json.local" "imagemanager.local.json" "imagemanager.registries.json"
        "imagemanager.remote.json" "import.curl.sh" "import.run.sh" "install.greina.sh" "install.rhel7.sh" "postmount.sh"
        "premount.mpi.sh" "premount.sh" "pull.barrnap.sh" "pull.mpitest.sh" "start.gunicorn.sh"
        "start.imagegwapi.sh" "udiRoot.conf.cluster" "udiRoot.conf.example" "udiRoot.conf.mpi"
    );
    all.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no document {name}")).1.to_owned()
}

/// The document with the host's directories moved into the test machine.
pub fn at_home(sandbox: &Sandbox, text: &str) -> String {
    let prefix = sandbox.prefix().display().to_string();
    let images = sandbox.images().display().to_string();
    [
        ("/var/udiMount", format!("{prefix}/udi")),
        ("/var/udiLoopMount", format!("{prefix}/loop")),
        ("/scratch/shifter/images", images.clone()),
        ("=/images", format!("={images}")),
        ("\"/images", format!("\"{images}")),
        ("/var/shifter/expand", format!("{images}/expand")),
        ("/var/log/", format!("{prefix}/log/")),
        ("/usr/sbin/", format!("{prefix}/sbin/")),
        ("udiRootPath=/usr", format!("udiRootPath={prefix}")),
        ("udiRootPath=/opt/shifter/udiRoot", format!("udiRootPath={prefix}")),
        ("/usr/libexec/shifter/opt/udiImage", format!("{prefix}/udiImage")),
        ("/scratch:/", "/home/scratch:/".to_owned()),
        ("/var/opt/cray/alps:/", format!("{prefix}/alps:/")),
        ("/var/opt/cray/dws:/", format!("{prefix}/dws:/")),
        ("/etc/opt/cray/wlm_detect:/", format!("{prefix}/wlm_detect:/")),
        ("/usr/lib/shifter/", format!("{prefix}/lib/")),
        ("/shared/shifter/", format!("{prefix}/shared/")),
        ("/cvmfs_nfs:/", format!("{prefix}/cvmfs_nfs:/")),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

const CONFIG: &str = "/etc/shifter/imagemanager.json";

/// The registries that the documents name.
const REGISTRIES: [&str; 6] =
    ["registry-1.docker.io", "index.docker.io", "quay.io", "nvcr.io", "registry.example.org", "otherloc"];

/// A machine with all that the documents' gateways use.
pub struct Documented {
    pub sandbox: Sandbox,
    pub munged: Munged,
    /// The image in all registries.
    pub built: Built,
    /// The name of this machine's system.
    pub system: &'static str,
    gateway: Option<Gateway>,
    mongo: Mongo,
}

impl Documented {
    /// A machine whose registries want this login.
    pub fn new(login: Option<(&str, &str)>) -> Self {
        enter_own_network().unwrap();
        // The port that the documents mean by naming none.
        let mongo = Mongo::start(27017).unwrap();
        let mut sandbox = Sandbox::new().unwrap();
        let munged = sandbox.munged("site").unwrap();
        let mut entries = shell_image();
        entries.push(file("bin/app", "#!/bin/sh\necho the app runs\n").mode(0o755));
        let built = Image::new(vec![Layer::new(entries)]).build().unwrap();
        let options = RegistryOptions { login, names: &REGISTRIES, ..RegistryOptions::default() };
        let registry = sandbox.registry(options).unwrap();
        for (repository, tag) in [("dmjacobsen/mpitest", "latest"), ("biocontainers/barrnap", "0.9--3")] {
            sandbox.push(&registry, &built, repository, tag).unwrap();
        }
        fs::copy(registry.ca.unwrap(), "/etc/shifter/registry-ca.crt").unwrap();
        let made = Self { sandbox, munged, built, system: "mycluster", gateway: None, mongo };
        made.root("echo 127.0.0.1 mongo imagegw greina9 >> /etc/hosts");
        made.client(&made.sandbox.images());
        made
    }

    /// Tells clients of the gateway, and nodes where its images are.
    pub fn client(&self, images: &Path) {
        let images = images.display().to_string();
        let keys = [("imageGateway", "http://imagegw:5000"), ("system", self.system), ("imagePath", &images)];
        self.sandbox.write_udiroot(&keys).unwrap();
    }

    /// A script of root's, which must succeed.
    pub fn root(&self, script: &str) -> String {
        self.sandbox.root().run(&["bash", "-ec", script]).unwrap().success().unwrap()
    }

    pub fn user(&self, user: &str, words: &[&str]) -> Outcome {
        self.sandbox.user(user).unwrap().run(words).unwrap()
    }

    /// A documented script as a user.
    pub fn run(&self, user: &str, name: &str) -> Outcome {
        let script = at_home(&self.sandbox, &document(name));
        self.user(user, &["bash", "-c", &script])
    }

    /// Puts a configuration where the gateway looks, with the directories that it names.
    pub fn configure(&self, text: &str) {
        fs::write(CONFIG, text).unwrap();
        let images = self.sandbox.images().display().to_string();
        self.root(&format!("mkdir -p {images}/cache {images}/expand; chown -R gateway: {images}"));
    }

    /// The gateway by this configuration, checked and served at the documents' port, in the place of the one before.
    pub fn serve(&mut self, text: &str) -> Gateway {
        self.stop();
        self.configure(text);
        let program = self.sandbox.program("shifter-imagegw").unwrap().display().to_string();
        let words = [program.as_str(), "check-config", "--config", CONFIG];
        self.sandbox.user("gateway").unwrap().run(&words).unwrap().success().unwrap();
        let gateway = self.sandbox.gateway_on(CONFIG.into(), self.sandbox.images(), 5000).unwrap();
        self.gateway = Some(gateway.clone());
        gateway
    }

    fn stop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            self.sandbox.stop(gateway.daemon).unwrap();
        }
    }

    /// The gateway first: it must not miss its catalog.
    pub fn finish(mut self) {
        self.stop();
        drop(self.mongo);
        self.sandbox.finish().unwrap();
    }
}
