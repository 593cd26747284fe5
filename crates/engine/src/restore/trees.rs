//! Random histories of clusters, and every kind of target on them, compared with a model.
//!
//! `world` lets servers live: they commit, switch segments, are backed up, promoted, copied, and some of what they archive
//! is lost or damaged. `model` says from that truth alone, by PostgreSQL's rules, what a target must give, may give, or
//! must not give. `check` puts the archive into a repository, asks the plan, and replays the plan's segments.
//! Repeat one tree with `PGKEEP_TEST_SEED=…`.

mod check;
mod model;
mod world;

use pgkeep_testkit::seed;

/// Trees in the gate, and with `PGKEEP_TEST_ALL`.
const TREES: [u64; 2] = [200, 2000];
/// Targets on each tree.
const TARGETS: usize = 24;

/// Aim: over random timeline trees the plan never reaches what can't be reached or is somebody else's, and refuses
/// nothing that is proven, but for the exceptions that `model` lists.
#[test]
fn random_timeline_trees() {
    let (first, trees) = match seed::given() {
        Some(seed) => (seed, 1),
        None => (1, TREES[usize::from(seed::all())]),
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let tallies: Vec<check::Tally> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                let seeds = (first + thread..first + trees).step_by(threads as usize);
                scope.spawn(move || seeds.map(|seed| check::tree(seed, TARGETS)).collect::<Vec<_>>())
            })
            .collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap()).collect()
    });
    let mut total = check::Tally::default();
    tallies.iter().for_each(|tally| total.add(tally));
    eprintln!("{trees} trees from seed {first}: {total}");
    if trees == 1 {
        eprintln!("{}", world::World::new(first));
    }
    assert_eq!(total.faults, Vec::<String>::new());
    // What is never reached, or never refused, is not tested.
    assert!(trees == 1 || total.covers_everything(), "{total}");
}
