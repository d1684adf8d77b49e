# A line of numbers in (weight and horsepower of each car), a line of numbers out (miles per gallon), until input ends.
model <- readRDS(commandArgs(trailingOnly = TRUE)[1])
input <- file("stdin", "r")

predict_line <- function(line) {
  cars <- matrix(scan(text = line, quiet = TRUE), ncol = 2, byrow = TRUE)
  predict(model, data.frame(wt = cars[, 1], hp = cars[, 2]))
}

while (length(line <- readLines(input, n = 1)) > 0) {
  cat(tryCatch(sprintf("%.9g", predict_line(line)), error = conditionMessage), "\n")
}
