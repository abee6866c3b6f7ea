#!/usr/bin/env bash
# The layer that runs CUDA on the CPU (tests/cuda_on_cpu), tested by itself: programs without a fault pass in every
# order of threads and streams, and each planted fault is detected. Prints cmocka's lines.
. tests/support.sh cudaemu
export CUDAEMU_QUIET=1

if [ ! -x "$bin/tests/cudaemu_correct" ]; then
    skip "built by a plain make where nvcc is" correct faults
    exit 0
fi

# program, case, exit code, words on stderr, environment…
run() {
    local program=$1 case=$2 code=$3 words=$4
    shift 4
    says "$code" "$words" env "$@" timeout 60 "$bin/tests/cudaemu_$program" "$case" && return 0
    echo "with $*"
    return 1
}
correct() { # program, case
    local bad=0 mode
    for mode in CUDAEMU_ORDER=0 "CUDAEMU_ORDER=2 CUDAEMU_ASYNC=1" "CUDAEMU_LANES=alone CUDAEMU_ORDER=0 CUDAEMU_ASYNC=2" \
        "CUDAEMU_LANES=alone CUDAEMU_ORDER=1" "CUDAEMU_LANES=alone CUDAEMU_ORDER=2 CUDAEMU_SEED=7" \
        "CUDAEMU_RACE=1 CUDAEMU_LEAKS=1" "CUDAEMU_RACE=1 CUDAEMU_LANES=alone CUDAEMU_ORDER=2 CUDAEMU_ASYNC=2"; do
        # shellcheck disable=SC2086
        run "$1" "$2" 0 "" $mode || bad=1
    done
    return $bad
}
correct_ranks() { run ranks "$1" 0 "" && run ranks "$1" 0 "" CUDAEMU_ASYNC=1 && run ranks "$1" 0 "" CUDAEMU_ASYNC=2; }

for program in correct instructions products; do
    for name in $("$bin/tests/cudaemu_$program"); do check "$name" correct $program "$name"; done
done
if [ -x "$bin/tests/cudaemu_ranks" ]; then
    for name in all_reduce reduce_scatter all_gather_and_broadcast types captured; do check $name correct_ranks $name; done
else
    skip "NCCL not found" ranks
fi

# program, case, exit code, words, environment: 1 wrong result, 2 a refused call, 99 a report of the layer
while read -r program name code words env; do
    [ -x "$bin/tests/cudaemu_$program" ] || continue
    # shellcheck disable=SC2086
    check "$name" run "$program" "$name" "$code" "${words//_/ }" CUDAEMU_STEPS=1000000 $env
done <<'END'
faults barrier_missing 1 wrong_result
faults barrier_missing 99 race_in_shared_memory CUDAEMU_RACE=1
faults barrier_missing_after_read 1 wrong_result
faults barrier_missing_after_read 99 race_in_shared_memory CUDAEMU_RACE=1
faults barrier_divergent 99 divergent_barrier
faults barrier_after_return 99 that_3_others_never_reach
faults syncwarp_missing 1 wrong_result CUDAEMU_LANES=alone
faults syncwarp_missing 99 race_in_shared_memory CUDAEMU_RACE=1
faults cp_async_wait_missing 1 wrong_result
faults cp_async_wait_lax 1 wrong_result
faults cp_async_barrier_missing 1 wrong_result CUDAEMU_ORDER=1
faults cp_async_barrier_missing 1 wrong_result CUDAEMU_LANES=alone
faults cp_async_barrier_missing 99 race_in_shared_memory CUDAEMU_RACE=1
faults mask_names_exited_lane 99 left_the_kernel_before
faults shuffle_from_outside_mask 99 shuffle_from_lane_20
faults lane_not_in_its_mask 99 in_its_own_member_mask
faults different_collectives 99 wait_for_each_other_in_different_instructions
faults collective_against_barrier 99 never_come
faults collective_against_barrier 99 never_come CUDAEMU_LANES=alone
faults device_memory_never_written 1 nan
faults shared_memory_never_written 1 nan
faults vector_misaligned 99 misaligned_read:_16_bytes
faults used_after_free 99 of_freed_buffer_1
faults host_pointer 99 host_memory
faults null_pointer 99 a_null_pointer
faults write_past_buffer 99 0_bytes_past_the_end_of_buffer_1
faults read_past_buffer 99 0_bytes_past_the_end_of_buffer_1
faults index_overflow 99 outside_any_buffer
faults dynamic_shared_too_small 99 dynamic_shared_memory_of_1020_bytes
faults shared_opt_in_missing 2 cudaErrorInvalidValue
faults static_shared_index 99 a_variable_in_shared_memory_of_256_bytes
faults local_array_index 99 local_memory_of_32_bytes
faults update_not_atomic 1 wrong_result
faults update_not_atomic 99 race_in_global_memory CUDAEMU_RACE=1
faults block_needs_block 1 wrong_result CUDAEMU_ORDER=1
faults block_needs_block 1 wrong_result CUDAEMU_ORDER=2
faults block_needs_block 99 race_in_global_memory CUDAEMU_RACE=1
faults no_fault_mma 0
faults mma_operands_swapped 1 wrong_result
faults ldmatrix_trans_missing 1 wrong_result
faults instruction_not_known 99 movmatrix.sync
faults endless_loop 99 endless
faults block_too_large 2 cudaErrorInvalidConfiguration
faults block_without_bounds 2 cudaErrorLaunchOutOfResources
faults shared_beyond_device 0
faults shared_beyond_device 2 cudaErrorInvalidValue CUDAEMU_ARCH=89
faults_host host_reads_device 99 host_code_touches_device_memory
faults_host copy_past_buffer 99 1028_bytes_from_byte_0_of_buffer_1
faults_host copy_direction 99 the_direction_is_another
faults_host freed_twice 2 cudaErrorInvalidValue
faults_host memory_leaked 99 still_allocated_at_exit CUDAEMU_LEAKS=1
faults_host out_of_memory 2 cudaErrorMemoryAllocation
faults_host fork_after_use 99 before_fork()
faults_host result_read_early 1 y_is_-1 CUDAEMU_ASYNC=1
faults_host source_overwritten 1 y_is_6 CUDAEMU_ASYNC=1
faults_host event_missing 1 wrong_result CUDAEMU_ASYNC=1
faults_host event_recorded_early 1 wrong_result CUDAEMU_ASYNC=1
faults_host stream_destroyed 99 a_stream_that_does_not_exist
faults_host event_destroyed 99 an_event_that_does_not_exist
faults_host capture_not_joined 2 cudaErrorStreamCaptureUnjoined
faults_host sync_in_capture 2 cudaErrorStreamCaptureUnsupported
faults_host sync_of_joined_stream 2 cudaErrorStreamCaptureUnsupported
faults_host query_of_captured_event 2 cudaErrorCapturedEvent
faults_host spoilt_capture 2 cudaErrorStreamCaptureInvalidated
faults_host end_by_joined_stream 2 cudaErrorStreamCaptureUnmatched
faults_host event_of_ended_capture 2 cudaErrorStreamCaptureIsolation
faults_host event_from_outside_capture 2 cudaErrorStreamCaptureIsolation
faults_host allocation_in_capture 2 cudaErrorStreamCaptureUnsupported
faults_host pinning_in_capture 2 cudaErrorStreamCaptureUnsupported
faults_host query_in_capture 2 cudaErrorStreamCaptureUnsupported
faults_host event_without_time 2 cudaErrorInvalidResourceHandle
faults_host not_ready_left_behind 2 cudaErrorNotReady CUDAEMU_ASYNC=1
faults_host driver_too_old 2 cudaErrorInsufficientDriver CUDAEMU_DRIVER=12040
faults_host graph_edge_missing 1 wrong_result CUDAEMU_ASYNC=1
faults_host no_fault_blas 0
faults_host no_fault_addend 0
faults_host blas_addend_overlaps 99 C_and_D_overlap
faults_host blas_misaligned 2 INVALID
faults_host blas_workspace_small 2 INVALID
faults_host blas_past_buffer 99 cuBLASLt:_B
faults_host blas_aux_ld 2 INVALID
faults_host blas_bias_missing 2 INVALID
faults_host no_fault_sums 0
faults_host no_fault_sums 2 SUPPORTED CUDAEMU_BGRAD=0
faults_host blas_sums_type 2 SUPPORTED
ranks sizes_differ 2 calls_another_collective,_or_with_other_sizes
ranks calls_differ 2 calls_another_collective
ranks rank_dies 2 rank_1_is_dead
ranks rank_late 2 rank_1_did_not_come_in_time CUDAEMU_TIMEOUT=1
ranks rank_aborts 2 rank_1_has_aborted
ranks buffers_overlap 99 the_buffers_overlap
ranks gather_past_buffer 99 ncclAllGather
ranks gpu_shared 2 invalid_usage
ranks captured_by_one_rank 2 or_in_another_graph
ranks another_graph 2 or_in_another_graph
ranks collective_not_joined 2 cudaErrorStreamCaptureUnjoined
ranks graph_outlives_communicator 99 a_graph_still_holds
ranks rank_dies_in_replay 2 rank_1_is_dead
END
exit $failed
