/* run_recipe: the recipes in a run folder. params.conf has the options with which the run began;
 * params-N.conf those with which a program resumed it at step N, if they were others. */
#pragma once
#include "kernels/base.h"

/* If --config is a recipe in a run folder, the folder's own name and place replace those that the
 * recipe has, so that it can be moved. Those of the command line stay. */
void run_recipe_locate(void);
/* Writes the options in force at the start or resumption of a run in the folder dir; returns the
 * path of the recipe that has them, malloc'd. Recipes of later steps, which a resumption drops, are
 * removed. */
char *run_recipe_write(const char *dir, uint64_t step, bool resumed);
