/* node: the ranks of one machine. They share its CPUs, and see each other's beats (watchdog.h). */
#pragma once
#include "train/ranks/comm.h"

/* Collective. Sets the OpenMP threads to this rank's share of the CPUs it may use, unless
 * OMP_NUM_THREADS is set. A CPU that several ranks of the node may use counts for each of them in
 * part, so that both bound and unbound ranks get their share. */
void node_join(const Comm *c);
/* This rank's share of the CPUs that it may use; before node_join, all of them. */
double node_cpus(void);
