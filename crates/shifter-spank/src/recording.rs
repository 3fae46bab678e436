//! A Slurm that only remembers what it was told, for tests.

use crate::options::Choice;
use crate::{Context, Job, Level, Spank};
use std::collections::BTreeMap;

/// What was said and set.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) context: Context,
    pub(crate) job: Option<Job>,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) for_prolog: BTreeMap<String, String>,
    pub(crate) said: Vec<(Level, String)>,
}

impl Recording {
    /// In this context, with these variables.
    pub(crate) fn new(context: Context, variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self {
            context,
            job: None,
            variables: variables.collect(),
            for_prolog: BTreeMap::new(),
            said: Vec::new(),
        }
    }
}

impl Spank for Recording {
    fn context(&self) -> Context {
        self.context
    }

    fn job(&self) -> Option<Job> {
        self.job
    }

    fn register(&mut self, _: Choice, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.insert(name.to_owned(), value.to_owned());
    }

    fn set_for_prolog(&mut self, name: &str, value: &str) {
        self.for_prolog.insert(name.to_owned(), value.to_owned());
    }

    fn unshare_mounts(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    fn say(&mut self, level: Level, text: &str) {
        self.said.push((level, text.to_owned()));
    }
}
