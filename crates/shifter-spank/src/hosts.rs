//! Who else is in the job: Slurm's compressed lists of hosts and numbers, and how many tasks each host has.
//!
//! The texts are Slurm's own; still nothing grows by what they claim.

/// Most hosts of a job.
const MOST: usize = 100_000;
/// Most tasks of a node, by slurm.conf(5), MaxTasksPerNode.
const MOST_OF_A_NODE: usize = 65_533;

/// A list of hosts written out: `n[1-3,07],login` is n1 n2 n3 n07 login. None if it is no such list.
pub fn expand(list: &str) -> Option<Vec<String>> {
    let mut hosts = Vec::new();
    for item in split_outside_brackets(list) {
        let mut names = vec![String::new()];
        let mut rest = item;
        while !rest.is_empty() {
            let (plain, after) = match rest.split_once('[') {
                Some((plain, after)) => (plain, Some(after.split_once(']')?)),
                None => (rest, None),
            };
            if !plain.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
                return None;
            }
            names.iter_mut().for_each(|name| name.push_str(plain));
            let Some((ranges, after)) = after else { break };
            let numbers = numbers(ranges)?;
            if names.len().checked_mul(numbers.len())? > MOST {
                return None;
            }
            names = names.iter().flat_map(|name| numbers.iter().map(move |n| format!("{name}{n}"))).collect();
            rest = after;
        }
        hosts.extend(names.into_iter().filter(|name| !name.is_empty()));
        if hosts.len() > MOST {
            return None;
        }
    }
    (!hosts.is_empty()).then_some(hosts)
}

fn split_outside_brackets(list: &str) -> Vec<&str> {
    let (mut depth, mut from, mut items) = (0, 0, Vec::new());
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth -= 1,
            b',' if depth == 0 => {
                items.push(&list[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    items.push(&list[from..]);
    items
}

/// `1-3,07` written out, with leading zeros.
fn numbers(ranges: &str) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for range in ranges.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (from, to): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        if to < from || to - from >= MOST as u64 {
            return None;
        }
        all.extend((from..=to).map(|number| format!("{number:0width$}", width = first.len())));
        if all.len() > MOST {
            return None;
        }
    }
    Some(all)
}

/// A list like `SLURM_JOB_CPUS_PER_NODE` written out: `2(x3),1` is 2 2 2 1. None if it is no such list.
pub fn repeated(list: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for item in list.split(',') {
        let (number, times) = match item.split_once("(x") {
            Some((number, times)) => (number, times.strip_suffix(')')?.parse().ok()?),
            None => (item, 1),
        };
        if times > MOST || all.len() + times > MOST {
            return None;
        }
        all.extend(std::iter::repeat_n(number.parse::<u32>().ok()?, times));
    }
    Some(all)
}

/// What the controller says of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Nobody else is on its nodes.
    pub exclusive: bool,
    /// All tasks.
    pub tasks: u32,
    /// Of each node, where the user said so; else 0.
    pub tasks_per_node: u32,
    /// Processors of each task.
    pub cpus_per_task: u32,
    /// All processors.
    pub cpus: u32,
    /// How often it has begun anew.
    pub restarts: u32,
}

/// What [`Layout::parse`] reads: fields of squeue that no user has any say in.
pub const FIELDS: &str =
    "JobID:20,OverSubscribe:20,NumTasks:20,NTPerNode:20,cpus-per-task:20,NumCPUs:20,RestartCnt:20";

/// What [`unended`] reads.
pub const STATES: &str = "JobID:20,State:30";

/// The jobs of squeue's lines of [`STATES`] that still have something on their nodes: all but those in a state that
/// squeue(1) calls an end, and those that wait for nodes. One that ends is in state COMPLETING until its epilogs are done.
pub fn unended(lines: &str) -> Vec<u32> {
    const ENDED: [&str; 16] = [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PENDING",
        "PREEMPTED",
        "REQUEUED",
        "REQUEUE_FED",
        "REQUEUE_HOLD",
        "RESV_DEL_HOLD",
        "REVOKED",
        "SPECIAL_EXIT",
        "TIMEOUT",
    ];
    let lines = lines.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let job = words.next()?.parse().ok()?;
        (!ENDED.contains(&words.next()?)).then_some(job)
    });
    lines.collect()
}

impl Layout {
    /// Finds the job in squeue's lines of [`FIELDS`]: asked for an array or for components, it tells of all.
    pub fn parse(lines: &str, job: u32) -> Option<Self> {
        let job = job.to_string();
        let mut lines = lines.lines().map(str::split_whitespace);
        let mut words = lines.find_map(|mut words| (words.next()? == job).then_some(words))?;
        let exclusive = words.next()? == "NO";
        let mut number = || words.next().map(|word| word.parse::<u32>().unwrap_or(0));
        let (tasks, tasks_per_node, cpus_per_task) = (number()?, number()?, number()?.max(1));
        let (cpus, restarts) = (number()?, number().unwrap_or(0));
        Some(Self { exclusive, tasks, tasks_per_node, cpus_per_task, cpus, restarts })
    }

    /// Tasks of each node, in the way srun places them by itself (`_task_layout_block` of Slurm's
    /// `src/common/slurm_step_layout.c`): one to each node in turn, while its processors are enough and the user's
    /// limit allows; where all nodes are full, beyond that. No node is left out.
    pub fn spread(&self, cpus: &[u32]) -> Vec<u32> {
        let limit = if self.tasks_per_node > 0 { self.tasks_per_node } else { u32::MAX };
        let fits = |cpus: &u32| (cpus / self.cpus_per_task).clamp(1, limit);
        // Where the user said tasks of each node alone, the controller may count the nodes as tasks.
        let all = match self.tasks as usize {
            all if all <= cpus.len() => cpus.len().saturating_mul(self.tasks_per_node as usize),
            all => all,
        };
        let mut left = all.clamp(cpus.len(), cpus.len() * MOST_OF_A_NODE);
        let mut tasks = vec![0; cpus.len()];
        while left > 0 {
            let all_full = tasks.iter().zip(cpus).all(|(tasks, cpus)| *tasks >= fits(cpus));
            let room = |tasks: u32, cpus| if all_full { u32::MAX } else { fits(cpus).saturating_sub(tasks) };
            let rooms = tasks.iter_mut().zip(cpus).map(|(tasks, cpus)| (room(*tasks, cpus), tasks));
            let mut open: Vec<(u32, &mut u32)> = rooms.filter(|(room, _)| *room > 0).collect();
            // Rounds that all of these have room in; or the last one, which has tasks for the first of them alone.
            let least = open.iter().map(|(room, _)| *room).min().unwrap_or(1);
            let rounds = u32::try_from(left / open.len().max(1)).unwrap_or(u32::MAX).min(least);
            let given = if rounds == 0 { left } else { open.len() };
            open.iter_mut().take(given).for_each(|(_, tasks)| **tasks += rounds.max(1));
            left -= given * rounds.max(1) as usize;
        }
        tasks
    }
}

/// For `setupRoot`'s `-N`: `host/tasks` of every node. Before 22.05 a prolog is not told the processors of each node
/// (`cpus`): then they count as equal.
pub fn hosts_of_job(nodes: &str, cpus: Option<&str>, layout: &Layout) -> Option<Vec<String>> {
    let hosts = expand(nodes)?;
    let cpus = cpus.and_then(repeated).filter(|cpus| cpus.len() == hosts.len());
    let each = layout.cpus / u32::try_from(hosts.len()).ok()?;
    let tasks = layout.spread(&cpus.unwrap_or_else(|| vec![each.max(1); hosts.len()]));
    Some(hosts.iter().zip(tasks).map(|(host, tasks)| format!("{host}/{tasks}")).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_of_hosts_are_written_out() {
        for (list, expected) in [
            ("node1", Some("node1")),
            ("node[1-3]", Some("node1 node2 node3")),
            ("node[1-2,07-08],login", Some("node1 node2 node07 node08 login")),
            (
                "r[0-1]n[08-10].site",
                Some("r0n08.site r0n09.site r0n10.site r1n08.site r1n09.site r1n10.site"),
            ),
            ("a,b", Some("a b")),
            ("", None),
            ("n[1-", None),
            ("n[3-1]", None),
            ("n[1-999999999]", None),
            ("n[1-99999]m[1-99999]", None),
            ("n[a-b]", None),
            ("n 1;reboot", None),
        ] {
            assert_eq!(expand(list).map(|hosts| hosts.join(" ")).as_deref(), expected, "{list}");
        }
    }

    #[test]
    fn repeated_numbers_are_written_out() {
        for (list, expected) in [
            ("2(x3),1", Some(vec![2, 2, 2, 1])),
            ("4", Some(vec![4])),
            ("", None),
            ("2(x)", None),
            ("2(x999999999)", None),
            ("2(x3", None),
        ] {
            assert_eq!(repeated(list), expected, "{list}");
        }
    }

    #[test]
    fn jobs_that_come_back_or_are_just_ending_are_not_taken_for_dead() {
        let lines = "3   RUNNING\n4 SUSPENDED \n5 COMPLETING\n6 COMPLETED\n7 CANCELLED\n8 PREEMPTED\n9 PENDING\n\
                     10 STOPPED\n11 SOMETHING_NEW\n12\nslurm: error\n";
        assert_eq!(unended(lines), [3, 4, 5, 10, 11]);
    }

    #[test]
    fn the_most_tasks_that_slurm_allows_are_placed_at_once() {
        let layout = Layout { tasks: u32::MAX, ..Layout::parse("7 NO 1 0 1 0", 7).unwrap() };
        let cpus: Vec<u32> = (0..MOST as u32).map(|number| 64 + number % 3).collect();
        let begun = std::time::Instant::now();
        let tasks = layout.spread(&cpus);
        assert_eq!(tasks.iter().map(|tasks| u64::from(*tasks)).sum::<u64>(), u64::from(u32::MAX));
        assert!(tasks.iter().max().unwrap() - tasks.iter().min().unwrap() <= 3);
        // One by one it was half a minute.
        assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
    }

    #[test]
    fn tasks_are_where_srun_puts_them() {
        let check = |line: &str, cpus: &[u32], expected: &[u32]| {
            let lines = format!("6 NO 9 9 9 9\n7 {line} 8\n");
            assert_eq!(Layout::parse(&lines, 7).unwrap().spread(cpus), expected, "{line}");
        };
        check("OK 3 0 1", &[2, 1], &[2, 1]);
        check("NO 2 0 1", &[2, 2], &[1, 1]);
        check("OK 4 2 1", &[2, 2], &[2, 2]);
        check("OK 2 1 2", &[2, 2], &[1, 1]);
        check("OK 5 0 2", &[8, 8], &[3, 2]);
        check("OK 1 0 N/A", &[1, 1, 1], &[1, 1, 1]);
        check("NO 5 0 1", &[4, 4], &[3, 2]);
        check("NO 6 0 1", &[4, 4], &[3, 3]);
        check("NO 6 0 1", &[2, 8, 1], &[2, 3, 1]);
        check("NO 3 2 1", &[4, 4], &[2, 1]);
        check("NO 5 4 1", &[4, 4], &[3, 2]);
        check("NO 2 3 1", &[4, 4], &[3, 3]);
        check("NO 6 3 1", &[2, 8, 8], &[2, 2, 2]);
        check("NO 8 3 1", &[2, 8, 8], &[2, 3, 3]);
        check("NO 10 0 1", &[4, 4], &[5, 5]);
        check("NO 10 0 1", &[1, 4], &[4, 6]);
        check("NO 4294967295 0 1", &[2, 2], &[65533, 65533]);
        for (line, exclusive) in [
            ("7 NO 1 1 1 1", Some(true)),
            ("7 USER 1 1 1 1", Some(false)),
            ("8 NO 1 1 1 1", None),
            ("", None),
        ] {
            assert_eq!(Layout::parse(line, 7).map(|layout| layout.exclusive), exclusive, "{line}");
        }
        let layout = Layout::parse("7 NO 3 0 1 4 2", 7).unwrap();
        assert_eq!(layout.restarts, 2);
        for (cpus, tasks, expected) in [
            (Some("1,2"), 3, "n1/1 n2/2"),
            (Some("4(x2)"), 5, "n1/3 n2/2"),
            (Some("2,1"), 3, "n1/2 n2/1"),
            (Some("2"), 3, "n1/2 n2/1"),
            (None, 3, "n1/2 n2/1"),
            (None, 4, "n1/2 n2/2"),
            (None, 2, "n1/1 n2/1"),
        ] {
            let layout = Layout { tasks, ..layout };
            let words = hosts_of_job("n[1-2]", cpus, &layout).map(|words| words.join(" "));
            assert_eq!(words.as_deref(), Some(expected), "{cpus:?}");
        }
        let unknown = Layout { cpus: 0, ..layout };
        assert_eq!(hosts_of_job("n[1-2]", None, &unknown).unwrap(), ["n1/2", "n2/1"]);
        assert_eq!(hosts_of_job("", None, &layout), None);
    }
}
