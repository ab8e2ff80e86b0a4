//! How much of a computation is given to a backend at once.

use burn::tensor::backend::Backend;
use rayon::{ThreadPoolBuilder, prelude::*};

/// How many independent operations are best given to a backend at once. The CPU backends use all cores for matrix
/// products alone, and one for the rest; a GPU gets its work from one thread.
pub fn at_once<B: Backend>(device: &B::Device) -> usize {
    // Burn's way to tell backends apart is their name, `dispatch<flex>` for instance.
    let name = B::name(device);
    if ["flex", "ndarray"].iter().any(|cpu| name.contains(cpu)) { rayon::current_num_threads() } else { 1 }
}

/// `compute` of all items, in their order, as many at once as is best for the backend.
pub fn map<B: Backend, T: Sync, R: Send>(
    device: &B::Device,
    items: &[T],
    compute: impl Fn(&T) -> R + Sync + Send,
) -> Vec<R> {
    if items.len() > 1 && at_once::<B>(device) > 1 {
        items.par_iter().map(compute).collect()
    } else {
        items.iter().map(compute).collect()
    }
}

/// Runs `task` on threads that end with it.
///
/// faer 0.24's x86 kernels return with the upper halves of the vector registers in use (there is no `vzeroupper` in
/// private-gemm-x86 0.1.22). All SSE code that runs later on such a thread, an exponential for instance, takes several
/// times as long.
pub fn on_own_threads<T: Send>(task: impl FnOnce() -> T + Send) -> T {
    match ThreadPoolBuilder::new().build() {
        Ok(pool) => pool.install(task),
        Err(_) => task(),
    }
}
