/* commands: the functions behind `clipc NAME …`. One file a command (tools/cmd_*.c), one row a
 * command in tools/clipc.c. argv[0] is the command's name; the return value is the exit code. */
#pragma once

int cmd_train(int argc, char **argv);
int cmd_eval_retrieval(int argc, char **argv);
int cmd_eval_probe(int argc, char **argv);
int cmd_eval_zeroshot(int argc, char **argv);
int cmd_eval_similar(int argc, char **argv);
int cmd_embed(int argc, char **argv);
int cmd_search(int argc, char **argv);
int cmd_index_list(int argc, char **argv);
int cmd_index_remove(int argc, char **argv);
int cmd_index_compact(int argc, char **argv);
int cmd_index_check(int argc, char **argv);
int cmd_score(int argc, char **argv);
int cmd_data_pack(int argc, char **argv);
int cmd_data_index(int argc, char **argv);
int cmd_data_check(int argc, char **argv);
int cmd_data_peek(int argc, char **argv);
int cmd_data_image(int argc, char **argv);
int cmd_tok(int argc, char **argv);
int cmd_ckpt_info(int argc, char **argv);
int cmd_ckpt_convert(int argc, char **argv);
int cmd_ckpt_mix(int argc, char **argv);
int cmd_ckpt_average(int argc, char **argv);
int cmd_ckpt_diff(int argc, char **argv);
int cmd_bench(int argc, char **argv);
